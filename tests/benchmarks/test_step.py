"""Suite ``step`` at tiny sizes."""

from __future__ import annotations

import pytest

from benchmarks import step
from benchmarks.report import BOUNDS, Report
from tests.benchmarks.tiny import PARTS, flags, names_of, report, shape

WAYS = ["smf, beside the dense ways", "dense gradient, masked", "dense gradient, Adam"]


@pytest.fixture(scope="module")
def told() -> Report:
    told = report()
    step.run(flags(table_slots="256"), told)
    return told


def test_the_parts_and_the_ways_are_timed_and_every_bound_names_some(told):
    assert names_of(told) == [*PARTS, *WAYS, "trained, and optimizer state"]
    others = {step.TORCH, "smf, beside torch", "peak of smf"}
    for bound in (bound for bound in BOUNDS if bound["suite"] == "step"):
        assert {bound["name"], *bound.get("over", ())} <= others | set(names_of(told))


def test_what_trains_is_told_under_sgd_and_under_adam(told):
    row = told.measurements[-1]
    assert row["trained_bytes"] == 16 * 8 * 4
    assert row["sgd_state_bytes"] == 0
    assert row["dense_over_smf_trained"] == 256 / 16
    # Two moments and a count of steps a row, the index of slots, and two scalars.
    capacity = row["adam_store_capacity"]
    assert row["adam_state_bytes"] == capacity * (2 * 8 * 4 + 4) + 256 * 4 + 4 + 1


def test_peaks_are_taken_of_every_way_at_a_million_slots_or_below(monkeypatch):
    tasks = []

    def ask(module, task):
        if task["way"] == "dense gradient, masked":
            raise ValueError("status 9: no room")
        tasks.append((module, task))
        return {"peak_bytes": 10**6}

    monkeypatch.setattr(step, "PEAK_SLOTS", 100)
    monkeypatch.setattr(step, "ask_child", ask)
    told = report()
    step.take_peaks(told, [shape(8), shape(16)])
    assert names_of(told) == [f"peak of {way}" for way in ("smf", "dense gradient, Adam")]
    assert told.measurements[0]["above_table_bytes"] == 10**6 - 64 * 8 * 4
    assert tasks[0][0] == "benchmarks.block"
    assert tasks[0][1]["shape"]["memory"]["keys_per_half"] == 8
    assert told.skipped[0]["reason"] == "status 9: no room"
    step.take_peaks(told, [shape(16)])
    assert "at most 100 table slots" in told.skipped[-1]["reason"]
