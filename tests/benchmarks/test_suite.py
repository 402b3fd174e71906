"""Fields, memory that does not suffice, and checks of what was not measured."""

from __future__ import annotations

import pytest

from benchmarks import suite
from benchmarks.harness import Program, ProgramMemory
from benchmarks.suite import Field, check_ratio, entry, fits, ratio, that_fit
from tests.benchmarks.tiny import report, shape


def test_a_field_reports_in_the_order_of_entry_with_as_many_samples_as_rounds():
    field, told, calls = Field(), report(), []
    program = Program(print, 2.5, ProgramMemory(1, 2, 3, 4), None)
    for keys in (8, 16):
        measurement = entry("step", "smf", shape(keys))
        field.enter(measurement, lambda i, keys=keys: calls.append((keys, i)), program)
    field.run(told, 3)
    assert [each.setting["table_slots"] for each in told.measurements] == [64, 256]
    assert [len(each.timing.samples) for each in told.measurements] == [3, 3]
    assert told.measurements[0].compile_seconds == 2.5
    assert {keys for keys, _ in calls} == {8, 16}
    assert len(field.calls()) == 2


@pytest.mark.parametrize(("together", "expected"), [(True, [64, 256]), (False, [64, 256, 1024])])
def test_tables_that_do_not_fit_are_left_out_with_a_reason(monkeypatch, together, expected):
    shapes = [shape(keys) for keys in (8, 16, 32, 64)]
    limit = shapes[2].table_bytes
    monkeypatch.setattr(suite, "free_bytes", lambda: (limit + suite._BESIDE) / suite._SHARE)
    told = report()
    found = that_fit(told, "step", shapes, tables=1, together=together)
    assert [each.slots for each in found] == expected
    assert told.skipped[-1]["what"] == "step at 4,096 table slots"
    assert "needs" in told.skipped[-1]["reason"]


def test_everything_fits_where_nothing_tells(monkeypatch):
    monkeypatch.setattr(suite, "free_bytes", lambda: None)
    assert len(that_fit(report(), "step", [shape(8), shape(64)], tables=9)) == 2
    program = Program(print, 0.0, ProgramMemory(2**60, 0, 0, 0), None)
    assert fits(report(), Field(), "x", program)


@pytest.mark.parametrize(("entered", "needed"), [(0, 180), (60, 180), (75, 185)])
def test_a_program_needs_its_arguments_its_results_and_temporaries(monkeypatch, entered, needed):
    monkeypatch.setattr(suite, "_SHARE", 1.0)
    program, field = Program(print, 0.0, ProgramMemory(100, 90, 80, 70), None), Field()
    # Calls run one after another: the largest temporaries of all are what has to be free.
    before = Program(print, 0.0, ProgramMemory(1, 1, 1, entered), None)
    field.enter(entry("step", "smf", shape()), lambda _: None, before)
    for free, enough in ((needed, True), (needed - 1, False)):
        told = report()
        monkeypatch.setattr(suite, "free_bytes", lambda free=free: free)
        assert fits(told, field, "a step", program) is enough
        assert len(told.skipped) == (not enough)


def test_a_check_of_what_was_not_measured_is_skipped():
    told = report()
    assert ratio(None, 1.0) is None
    assert ratio(3.0, 2.0) == 1.5
    check_ratio(told, "a", ratio(1.0, None), "at most", 2)
    check_ratio(told, "b", ratio(1.0, 2.0), "at most", 2)
    assert [each.name for each in told.checks] == ["b"]
    assert told.skipped[0]["what"] == "check a"
