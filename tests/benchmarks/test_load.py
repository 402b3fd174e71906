"""What loading takes: told for each way, alone in a process."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks.load import LoadConfig, load, main
from smf_jax.params import count_parameters
from tests.interop.gguf.files import LLAMA, ROWS, write_model
from tests.models.tiny import random_params


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


def test_a_gguf_file_is_measured_by_the_numbers_in_it(tmp_path, monkeypatch):
    path, out = write_model(tmp_path / "a.gguf"), tmp_path / "load.json"
    allowed = 1.3 * 2 * count_parameters(random_params(replace(LLAMA, vocabulary=ROWS))) + 2**29
    for peak in (int(allowed), int(allowed) + 1):
        beside = {"peak_bytes": peak}
        monkeypatch.setattr("benchmarks.load.ask_child", lambda _, t, b=beside: load(**t) | b)
        status = main(LoadConfig(base=str(path), ways="bfloat16", out=str(out)))
        assert status == (0 if peak <= allowed else 1)
        told = json.loads(out.read_text())
        assert told["file_bytes"] == path.stat().st_size
        assert told["ways"]["bfloat16"]["within"] is (peak <= allowed)


def test_what_is_asked_for_is_checked(tmp_path):
    with pytest.raises(ValueError, match="--ways=int8,int2: .'int2'. are none of bfloat16"):
        LoadConfig(base="a", ways="int8,int2")
    with pytest.raises(ValueError, match="--base is empty"):
        main(LoadConfig())
