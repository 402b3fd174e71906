"""Suites ``read`` and ``lookup`` at tiny sizes."""

from __future__ import annotations

import pytest

from benchmarks import lookup, read
from tests.benchmarks.tiny import flags, names_of, report
from tests.tiny_sweep import quick_compilation

FORMS = {
    read: ["read", "read, one gather", "gradient of weights", "gradient of weights, one gather"],
    lookup: ["lookup", "lookup, all k × k pairs", "scores alone"],
}


@pytest.mark.parametrize("module", FORMS)
def test_every_form_is_timed(module):
    told = report()
    with quick_compilation():
        module.run(flags(table_slots="256"), told)
    assert names_of(told) == FORMS[module]
    for row in told.measurements:
        assert row["seconds"]["samples"] == 2
        assert row["floor_seconds"] > 0
        assert row["memory"]["total"] > 0


def test_a_form_that_computes_something_else_is_not_timed(monkeypatch):
    monkeypatch.setattr(read, "plain_read", lambda *given: 1.01 * read.read(*given))
    with quick_compilation(), pytest.raises(AssertionError, match="read"):
        read.run(flags(table_slots="64"), report())
