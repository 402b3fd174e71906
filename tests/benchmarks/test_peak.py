"""A real child that takes steps and tells its peak."""

from __future__ import annotations

from benchmarks.block import make_block
from benchmarks.peak import ways
from benchmarks.resident import peak_of
from tests.benchmarks.tiny import shape


def test_a_child_tells_a_peak_that_holds_its_table():
    # 64 MiB, which a process without it would not come near to be told apart from.
    large = shape(keys=1024, budget=64, memory=shape(1024).memory)
    fields = {**large.__dict__, "memory": {**large.memory.to_dict(), "value_width": 16}}
    task = {"shape": fields, "way": "smf"}
    assert peak_of("benchmarks.peak", task) > 2**26 + 2**27


def test_every_way_has_a_name_and_a_step():
    found = ways(make_block(shape()))
    assert list(found) == ["smf", "dense gradient, masked", "dense gradient, Adam"]
    assert all(callable(part) for pair in found.values() for part in pair)
