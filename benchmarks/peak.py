"""A child that takes a few steps of one way to train the block, and tells its peak memory."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

import jax

from benchmarks import block, dense
from benchmarks.costs import BlockShape
from benchmarks.harness import Stepper, compile_for
from benchmarks.resident import tell_peak
from smf_jax.memory.config import MemoryConfig

_STEPS = 3


def ways(given: block.Block) -> dict[str, tuple[Any, Any]]:
    """By name, how the state is made from a table and the step from that state."""
    shape, layer = given.shape, given.layer
    return {
        "smf": (lambda table: (table, given.store(table)), partial(block.step, shape, layer)),
        "dense gradient, masked": (dense.start_masked, partial(dense.step_masked, shape, layer)),
        "dense gradient, Adam": (dense.start_adam, partial(dense.step_adam, layer)),
    }


def take_steps(shape: BlockShape, way: str) -> None:
    """Makes the block and a few steps."""
    given = block.make_block(shape)
    start, step = ways(given)[way]
    table = block.random_table(shape.slots, shape.memory.value_width, shape.table_dtype)
    state = start(table)
    del table
    program = compile_for(step, state, *given.arguments()[0], donate=(0,))
    stepper = Stepper(program.run, state, given.arguments())
    del state
    for repetition in range(_STEPS):
        jax.block_until_ready(stepper(repetition))


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    memory = MemoryConfig.from_dict(task["shape"].pop("memory"))
    take_steps(BlockShape(memory, **task["shape"]), task["way"])
    tell_peak()
