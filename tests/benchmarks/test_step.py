"""Suite ``step`` at tiny sizes."""

from __future__ import annotations

import pytest

from benchmarks import step, suite, torch_block
from benchmarks.results import Report
from tests.benchmarks.tiny import flags, names_of, report, shape
from tests.tiny_sweep import quick_compilation

PARTS = [
    "smf",
    "forward and back to the read",
    "after the forward",
    "after the forward, vector form",
    "after the forward, sorted form",
    "count and select",
    "row gradient",
    "update and write",
]
WAYS = ["smf, beside the dense ways", "dense gradient, masked", "dense gradient, Adam"]


@pytest.fixture(scope="module")
def told() -> Report:
    told = report()
    with quick_compilation():
        step.run(flags(table_slots="256"), told)
    return told


def test_the_parts_and_the_ways_are_timed(told):
    timed = [name for name, _ in names_of(told) if name != "trained, and optimizer state"]
    assert timed == PARTS + WAYS
    assert all(slots == 256 for _, slots in names_of(told))


def test_the_donated_table_is_written_in_place(told):
    table = 256 * 8 * 4
    for each in told.measurements:
        if each.name in ("smf", "after the forward", "update and write"):
            assert each.memory.aliased == table


def test_what_trains_is_told_under_sgd_and_under_adam(told):
    more = told.measurements[-1].more
    assert more["trained_bytes"] == 16 * 8 * 4
    assert more["sgd_state_bytes"] == 0
    assert more["dense_trained_bytes"] == 256 * 8 * 4
    assert more["dense_adam_state_bytes"] == 2 * 256 * 8 * 4
    # Two moments and a count of steps a row, the index of slots, and two scalars.
    capacity = more["adam_store_capacity"]
    assert capacity == min(256, 30 * 64)
    assert more["adam_state_bytes"] == capacity * (2 * 8 * 4 + 4) + 256 * 4 + 4 + 1


def test_both_forms_are_checked_and_the_rest_is_skipped_with_reasons(told):
    assert [check.name for check in told.checks] == ["after_over_better_form_at_256"]
    skipped = {each["what"] for each in told.skipped}
    assert "check smf_over_torch_at_1048576" in skipped
    assert "check after_at_4194304" in skipped


def test_without_torch_or_memory_the_reason_is_told(monkeypatch):
    field, told = suite.Field(), report()
    given = step.make_block(shape(keys=16))
    monkeypatch.setattr(torch_block, "is_installed", lambda: False)
    step._enter_torch(field, told, given)
    monkeypatch.setattr(torch_block, "is_installed", lambda: True)
    monkeypatch.setattr(suite, "free_bytes", lambda: 100)
    step._enter_torch(field, told, given)
    assert [each["reason"] for each in told.skipped] == [
        "torch is not installed",
        "needs 16 KiB, 100 B are free",
    ]
    assert field.calls() == []


def test_peaks_are_taken_of_every_way_at_a_million_slots_or_below(monkeypatch):
    tasks = []

    def peak_of(module, task):
        if task.get("way") == "dense gradient, masked":
            raise ValueError("status 9: no room")
        tasks.append((module, task))
        return 10**6

    monkeypatch.setattr(step, "peak_of", peak_of)
    monkeypatch.setattr(step, "PEAK_SLOTS", 100)
    monkeypatch.setattr(torch_block, "is_installed", lambda: True)
    told = report()
    step._take_peaks(flags(torch=True), told, [shape(8), shape(16)])
    assert [each.name for each in told.measurements] == [
        "peak of smf",
        "peak of dense gradient, Adam",
        "peak of torch EmbeddingBag(sparse=True), SGD",
    ]
    assert all(each.setting["table_slots"] == 64 for each in told.measurements)
    assert tasks[0][1]["shape"]["memory"]["keys_per_half"] == 8
    assert tasks[-1][1]["sizes"] == step.sizes_of(shape(8))._asdict()
    assert told.skipped[0]["reason"] == "status 9: no room"
    step._take_peaks(flags(), told, [shape(16)])
    assert "at most 100 table slots" in told.skipped[-1]["reason"]
