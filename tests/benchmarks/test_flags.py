"""What is refused before anything runs."""

from __future__ import annotations

import pytest

from benchmarks.flags import ON_THIS_MACHINE, BenchmarkFlags
from tests.benchmarks.tiny import flags


def test_the_flags_as_they_are_can_be_run():
    BenchmarkFlags().check()
    flags().check()
    assert BenchmarkFlags().suites() == ON_THIS_MACHINE
    assert BenchmarkFlags().slots() == (16_384, 65_536, 262_144, 1_048_576, 4_194_304)


def test_the_block_is_that_of_the_flags():
    block = BenchmarkFlags().block(1_048_576)
    assert (block.slots, block.tokens, block.width, block.budget) == (1_048_576, 512, 256, 512)
    memory = block.memory
    assert (memory.heads, memory.reads, memory.key_width, memory.value_width) == (4, 32, 256, 256)
    assert [block.slots for block in flags(table_slots="256,64").blocks()] == [64, 256]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suite": "read,raed"}, "--suite=read,raed: 'raed' is unknown"),
        ({"suite": "tpu,read"}, "--suite=tpu,read: tpu compiles .* by itself"),
        ({"table_slots": "64,x"}, "--table_slots=64,x: expected whole numbers"),
        ({"table_slots": "65"}, "65 is not the square .* try 64 or 81"),
        ({"table_slots": "-4"}, "-4 is not the square"),
        ({"table_slots": "9"}, "9 slots have 3 keys per half, fewer than --reads=4"),
        ({"repetitions": 0}, "--repetitions=0: expected at least 1"),
        ({"tokens": 0}, "--tokens=0"),
        ({"scale": 0.0}, "--scale=0.0"),
        ({"scale": 2.0}, "--scale=2.0: expected at most 1"),
        ({"budget": 65}, "--budget=65 is more rows"),
        ({"key_width": 7}, "--key_width=7"),
    ],
)
def test_flags_that_nothing_could_run_with_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        flags(**changes).check()
