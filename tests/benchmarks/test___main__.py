"""The command: what it writes, what it refuses, what it prints."""

from __future__ import annotations

import json
from typing import Any, cast

import jax
import pytest

from benchmarks import __main__ as command
from benchmarks import depth, models, read, real_size, train
from benchmarks.flags import SUITES, BenchmarkConfig
from benchmarks.models import METHODS
from benchmarks.report import Entry
from experiments import benchmark
from experiments.cli import help_text
from tests.benchmarks.tiny import PARTS, RATES, flags, names_of, report


def measure(flags, report):
    for slots in flags.slots():
        setting = {"table_slots": slots, "tokens": 16}
        report.add(Entry("lookup", "lookup", setting), [1e-5 * slots])
    report.skip("torch", "it is not installed")


def fail(flags, report):
    raise KeyError("a fault of ours")


def run(**changes) -> int:
    runs = dict.fromkeys(SUITES, measure) | {"train": fail}
    return command.main(flags(**{"suite": "lookup", **changes}), runs)


@pytest.fixture(autouse=True)
def made_up(monkeypatch):
    """Rates that take no time; the compilation cache is put back."""
    monkeypatch.setattr(command, "measure_rates", lambda **_: RATES)
    cached = cast(Any, jax.config).jax_enable_compilation_cache
    yield
    jax.config.update("jax_enable_compilation_cache", cached)


def test_a_run_leaves_json_and_tables(tmp_path, capsys):
    out = tmp_path / "runs" / "mine"
    assert run(out=str(out)) == 0
    assert sorted(path.name for path in out.iterdir()) == ["results.json", "results.md"]
    result = json.loads((out / "results.json").read_text())
    assert result["format"] == 1
    assert result["flags"]["table_slots"] == "64,256"
    assert result["machine"]["cores"] >= 1
    assert [row["setting"]["table_slots"] for row in result["measurements"]] == [64, 256]
    assert result["measurements"][0]["seconds"]["median"] == 1e-5 * 64
    assert result["skipped"] == [{"what": "torch", "reason": "it is not installed"}]
    table = (out / "results.md").read_text()
    assert "| lookup                    | 0.64 | 2.56 |" in table
    assert "copies at 1 GB/s" in table
    assert "### lookup" not in capsys.readouterr().out
    assert run(markdown=True) == 0
    assert "### lookup" in capsys.readouterr().out


def test_what_is_done_is_kept_when_a_later_suite_fails(tmp_path):
    with pytest.raises(KeyError):
        run(suite="lookup,train", out=str(tmp_path / "x"))
    assert len(json.loads((tmp_path / "x" / "results.json").read_text())["measurements"]) == 2


def test_an_earlier_run_is_replaced_only_if_asked_and_nothing_else_ever(tmp_path):
    out = tmp_path / "mine"
    run(out=str(out))
    with pytest.raises(FileExistsError, match="--out=.*mine exists; .*--overwrite"):
        run(out=str(out))
    assert run(out=str(out), overwrite=True, table_slots="64") == 0
    assert len(json.loads((out / "results.json").read_text())["measurements"]) == 1
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious").write_text("")
    with pytest.raises(FileExistsError, match="holds no benchmark"):
        run(out=str(other), overwrite=True)
    assert [path.name for path in other.iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"suite": "x"}, "--suite=x: 'x' is unknown; choose from read"),
        ({"suite": "tpu,read"}, "run it by itself"),
        ({"table_slots": "many"}, "--table_slots=many: expected whole numbers"),
        ({"table_slots": "60"}, "60 is not a square number; try 49 or 64"),
        ({"table_slots": "9"}, "fewer than --reads=4; give at least 16"),
        ({"repetitions": 0}, "--repetitions=0: expected at least 1"),
        ({"scale": 2.0}, "--scale=2.0: expected at most 1"),
        ({"budget": 65}, "--budget=65 is more rows than the smallest"),
        ({"key_width": 7}, "--key_width=7"),
    ],
)
def test_bad_flags_are_refused_before_anything_is_measured(wrong, message, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "measure_rates", None)
    with pytest.raises(ValueError, match=message):
        run(out=str(tmp_path / "x"), **wrong)
    assert not (tmp_path / "x").exists()


LARGE = ["read", "gradient of weights", "read, one gather", "lookup", *PARTS]
NAMES = {
    "read": [x + y for x in ("read", "gradient of weights") for y in ("", ", one gather")],
    "lookup": ["lookup", "lookup, all k × k pairs", "scores alone"],
    "train": ["smf", "smf, beside the others", "LoRA r 8, AdamW", "full, AdamW"],
    "generate": ["generate 16 tokens", "generate 16 tokens, no memory"],
    "depth": ["compiled step"] * 2,
    "real_size": ["smf", "LoRA r 8, AdamW"],
    "accelerator": [*LARGE, "smf step", "smf step, least memory", "everything"],
}
CHECKED = {
    "train": ["train_smf_over_lora_built_in"],
    "accelerator": ["accelerator_read_of_copy_bandwidth", "accelerator_memory_adds_to_step"],
}


@pytest.mark.parametrize("suite", NAMES)
def test_every_case_of_a_suite_is_timed_and_has_its_bounds(suite, monkeypatch):
    monkeypatch.setattr(real_size, "_LENGTH", 8)
    monkeypatch.setattr(train, "_COMPARED_SLOTS", {"built-in base": 64})
    monkeypatch.setattr(depth, "DEPTHS", (2,))
    monkeypatch.setattr(models, "ALL_METHODS", (models.SMF, models.EWC))
    told = report()
    command.RUNS[suite](flags(table_slots="256"), told)
    assert names_of(told) == NAMES[suite]
    for row in told.measurements:
        if row["name"] != "everything":
            samples = 3 if suite == "real_size" else 2
            assert suite == "depth" or row["seconds"]["samples"] == samples
            assert row["compile_seconds"] > 0
        if suite == "real_size" or row["name"] == "everything":
            assert row["peak_bytes"] > 2**20
        if suite in ("read", "lookup"):
            assert row["floor_seconds"] > 0
            assert row["memory"]["total"] > 0
    if suite == "train":
        found = [list(row["setting"].values())[:2] for row in told.measurements]
        assert found == [["9M decoder", 256], *[["built-in base", 64]] * 3]
    told.check(suite)
    assert [check["name"] for check in told.checks] == CHECKED.get(suite, [])


def test_a_form_that_computes_something_else_is_not_timed(monkeypatch):
    monkeypatch.setattr(read, "plain_read", lambda *given: 1.01 * read.read(*given))
    with pytest.raises(AssertionError, match="read"):
        read.run(flags(table_slots="64"), report())


def test_what_a_child_cannot_do_is_skipped(monkeypatch):
    def ask(module, task):
        raise ValueError("needs 9.0 GiB, 1.0 GiB are free")

    monkeypatch.setattr(real_size, "ask_child", ask)
    told = report()
    real_size.run(flags(peak=True), told)
    assert [each["what"] for each in told.skipped] == [f"real_size, {each}" for each in METHODS[:2]]


def test_every_suite_is_known_and_the_command_has_two_names():
    assert set(command.RUNS) == set(SUITES)
    assert BenchmarkConfig().suites() == SUITES[:6]
    assert benchmark.command is command.command
    text = help_text(BenchmarkConfig, "times", "an example")
    assert max(map(len, text.splitlines())) <= 100
