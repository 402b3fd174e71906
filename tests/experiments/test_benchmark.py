"""The command: what it writes, what it refuses, what it prints."""

from __future__ import annotations

import json

import jax
import pytest

from benchmarks.flags import SUITES, BenchmarkFlags
from benchmarks.harness import Timing
from benchmarks.results import Measurement
from experiments import benchmark
from experiments.cli import help_text
from tests.benchmarks.tiny import RATES, flags


@pytest.fixture(autouse=True)
def made_up(monkeypatch):
    """Rates and suites that take no time."""

    def measure(flags, report):
        for slots in flags.slots():
            setting = {"table_slots": slots, "tokens": 16}
            report.add(Measurement("lookup", "lookup", setting, Timing((1e-5 * slots,))))
        report.check("ratio", 0.5, "at most", 1)
        report.skip("torch", "it is not installed")

    def fail(flags, report):
        raise KeyError("a fault of ours")

    suites = dict.fromkeys(SUITES, measure) | {"train": fail}
    monkeypatch.setattr(benchmark, "_SUITES", suites)
    monkeypatch.setattr(benchmark, "measure_rates", lambda **_: RATES)
    cached = jax.config.jax_enable_compilation_cache
    yield
    jax.config.update("jax_enable_compilation_cache", cached)


def test_a_run_leaves_json_tables_and_a_picture(tmp_path, capsys):
    out = tmp_path / "runs" / "mine"
    assert benchmark.main(flags(suite="lookup", out=str(out))) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "lookup.png",
        "results.json",
        "results.md",
    ]
    result = json.loads((out / "results.json").read_text())
    assert result["format"] == 1
    assert result["flags"]["table_slots"] == "64,256"
    assert result["rates"] == RATES._asdict()
    assert result["machine"]["cores"] >= 1
    assert [row["setting"]["table_slots"] for row in result["measurements"]] == [64, 256]
    assert result["measurements"][0]["seconds"]["median"] == 1e-5 * 64
    assert result["checks"][0]["holds"] is True
    assert result["skipped"] == [{"what": "torch", "reason": "it is not installed"}]
    assert "| lookup | 0.64 | 2.56 |" in (out / "results.md").read_text()
    printed = capsys.readouterr().out
    assert "ratio: 0.5, at most 1: holds" in printed
    assert "### lookup" not in printed


def test_markdown_is_printed_to_be_pasted(capsys):
    assert benchmark.main(flags(suite="lookup", markdown=True)) == 0
    printed = capsys.readouterr().out
    assert "### lookup" in printed
    assert "| ratio | 0.5 | at most 1 | yes |" in printed


def test_what_is_done_is_kept_when_a_later_suite_fails(tmp_path):
    with pytest.raises(KeyError):
        benchmark.main(flags(suite="lookup,train", out=str(tmp_path / "x")))
    assert len(json.loads((tmp_path / "x" / "results.json").read_text())["measurements"]) == 2


def test_an_earlier_run_is_replaced_only_if_asked_and_nothing_else_ever(tmp_path):
    out = tmp_path / "mine"
    benchmark.main(flags(suite="lookup", out=str(out)))
    with pytest.raises(FileExistsError, match="--out=.*mine exists; .*--overwrite"):
        benchmark.main(flags(suite="lookup", out=str(out)))
    one = flags(suite="lookup", out=str(out), overwrite=True, table_slots="64")
    assert benchmark.main(one) == 0
    assert not (out / "lookup.png").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious").write_text("")
    with pytest.raises(FileExistsError, match="holds no benchmark"):
        benchmark.main(flags(suite="lookup", out=str(other), overwrite=True))
    assert [path.name for path in other.iterdir()] == ["precious"]


def test_bad_flags_are_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "measure_rates", None)
    with pytest.raises(ValueError, match="--suite=x"):
        benchmark.main(flags(suite="x", out=str(tmp_path / "x")))
    assert not (tmp_path / "x").exists()


def test_nothing_is_measured_on_this_machine_where_only_compilers_are_asked(monkeypatch):
    monkeypatch.setattr(benchmark, "measure_rates", None)
    prepared = []
    monkeypatch.setattr(benchmark.tpu, "prepare", lambda: prepared.append(True))
    assert benchmark.main(flags(suite="tpu")) == 0
    assert prepared == [True]


def test_every_suite_has_a_module():
    assert set(benchmark._SUITES) == set(SUITES)


def test_help_fits_a_terminal():
    text = help_text(BenchmarkFlags, "experiments.benchmark", "times", "an example")
    assert max(map(len, text.splitlines())) <= 100
