"""A short form of `tests.serving.load`: many clients, sets mixed, no answer of another set."""

from __future__ import annotations

from tests.serving.load import hammer, references
from tests.serving.tiny import wait_until_idle


def test_no_client_hears_another_set(server, taught):
    known = references(str(taught))
    assert set(known) == {"base", "taught", "base+facts", "base+facts_01"}
    counts, faults = hammer(server.url, known, lambda: range(5), clients=8)
    assert faults == []
    assert {"scored", "completed", "streamed", "hung up", "asked"} <= counts.keys()
    assert counts.total() == 8 * 5
    wait_until_idle(server)
