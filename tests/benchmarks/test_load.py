"""What loading takes: told for each way, alone in a process."""

from __future__ import annotations

import json

import pytest

from benchmarks.load import LoadConfig, load, main


def test_each_way_is_told_and_the_bound_marked(plain_checkpoint, tmp_path, monkeypatch):
    asked = []

    def ask(module, task):
        asked.append(task["way"])
        assert module == "benchmarks.load"
        return load(**task) | {"peak_bytes": 2**29}

    monkeypatch.setattr("benchmarks.load.ask_child", ask)
    out = tmp_path / "load.json"
    assert main(LoadConfig(base=str(plain_checkpoint), ways="bfloat16,nf4", out=str(out))) == 0
    told = json.loads(out.read_text())
    assert asked == list(told["ways"]) == ["bfloat16", "nf4"]
    assert told["file_bytes"] == (plain_checkpoint / "model.safetensors").stat().st_size
    wide, narrow = (told["ways"][way] for way in asked)
    assert wide["within"] is True and "within" not in narrow
    assert 0 < narrow["leaf_bytes"] < wide["leaf_bytes"] <= told["file_bytes"]


def test_what_is_asked_for_is_checked(tmp_path):
    with pytest.raises(ValueError, match="--ways=int8,int2: .'int2'. are none of bfloat16"):
        LoadConfig(base="a", ways="int8,int2")
    with pytest.raises(ValueError, match="--base is empty"):
        main(LoadConfig())
