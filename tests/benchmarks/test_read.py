"""Suite ``read`` checks what it times."""

from __future__ import annotations

import pytest

from benchmarks import read
from tests.benchmarks.tiny import flags, report
from tests.tiny_sweep import quick_compilation


def test_a_form_that_computes_something_else_is_not_timed(monkeypatch):
    monkeypatch.setattr(read, "plain_read", lambda *given: 1.01 * read.read(*given))
    with quick_compilation(), pytest.raises(AssertionError, match="read"):
        read.run(flags(table_slots="64"), report())
