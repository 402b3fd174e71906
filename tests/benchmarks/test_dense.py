"""The dense ways change what they should."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np

from benchmarks import block, dense
from benchmarks.block import make_block, random_table
from tests.benchmarks.tiny import shape
from tests.tiny_sweep import quick_compilation

SHAPE = shape(keys=16)


def test_the_masked_step_is_the_sparse_step():
    given = make_block(SHAPE)
    table = random_table(SHAPE.slots, 8, "float32")
    with quick_compilation():
        masked = jax.jit(partial(dense.step_masked, SHAPE, given.layer))
        sparse = jax.jit(partial(block.step, SHAPE, given.layer))
        found = masked(dense.start_masked(table), *given.arguments()[0])[0]
        expected = sparse((table, None), *given.arguments()[0])[0]
    changed = np.any(np.asarray(expected != table), axis=1)
    np.testing.assert_array_equal(np.any(np.asarray(found != table), axis=1), changed)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_adam_moves_every_row_that_was_read_and_goes_on_moving_it():
    given = make_block(SHAPE)
    table = random_table(SHAPE.slots, 8, "float32")
    with quick_compilation():
        step = jax.jit(partial(dense.step_adam, given.layer))
        state = step(dense.start_adam(table), *given.arguments()[0])
        again = step(state, *given.arguments()[1])
        read = block.traces(given, table)
    of_first = np.isin(np.arange(SHAPE.slots), read[0].slots)
    moved = np.any(np.asarray(state[0] != table), axis=1)
    np.testing.assert_array_equal(moved, of_first)
    only_first = of_first & ~np.isin(np.arange(SHAPE.slots), read[1].slots)
    assert only_first.any()
    assert np.any(np.asarray(again[0] != state[0]), axis=1)[only_first].all()
