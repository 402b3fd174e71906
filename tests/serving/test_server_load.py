"""A short form of `tests.serving.load`: many clients, sets mixed, no answer of another set."""

from __future__ import annotations

from tests.serving.load import hammer, references


def test_no_client_hears_another_set(server, taught):
    known = references(str(taught))
    assert set(known) == {"base", "taught", "base+facts", "base+facts_01"}
    counts, faults = hammer(server.url, known, seconds=3, clients=8)
    assert faults == []
    assert {"scored", "completed", "streamed"} <= counts.keys() and counts.total() > 20
    assert not server.worker.load
