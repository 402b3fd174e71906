"""Suite ``real_size`` at a fiftieth of its size."""

from __future__ import annotations

from benchmarks import real_size
from benchmarks.models import LORA, SMF
from tests.benchmarks.tiny import flags, names_of, report
from tests.tiny_sweep import quick_compilation


def test_three_steps_of_each_method_are_taken_and_told(monkeypatch):
    monkeypatch.setattr(real_size, "_LENGTH", 8)
    told = report()
    with quick_compilation():
        real_size.run(flags(), told)
    assert names_of(told) == [SMF, LORA]
    for row in told.measurements:
        assert row["seconds"]["samples"] == 3
        assert row["compile_seconds"] > 0
        assert row["peak_bytes"] > 2**20


def test_what_a_child_cannot_do_is_skipped(monkeypatch):
    def ask(module, task):
        raise ValueError("needs 9.0 GiB, 1.0 GiB are free")

    monkeypatch.setattr(real_size, "ask_child", ask)
    told = report()
    real_size.run(flags(peak=True), told)
    assert [each["what"] for each in told.skipped] == ["real_size, smf", f"real_size, {LORA}"]
