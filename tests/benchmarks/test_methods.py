"""The methods on a whole model."""

from __future__ import annotations

from functools import cache

import jax
import numpy as np
import pytest

from benchmarks import methods, models
from benchmarks.methods import MASKED, METHODS, SMF, make_method, stepping
from tests.benchmarks.tiny import shape
from tests.tiny_sweep import quick_compilation

BUDGET = 16


@cache
def config():
    return models.nine_million_decoder(shape(keys=16).memory, scale=0.02)


@cache
def batch():
    return models.random_batch(config(), 2, 8)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_keeps_the_shapes_of_its_state(name):
    method = make_method(name, config(), BUDGET)
    frozen, state = methods.shapes_of(method, models.abstract_leaves(config()))
    usage = models.random_usage(config())
    after, loss = jax.eval_shape(method.step, state, frozen, usage, batch())
    assert loss.shape == ()
    assert jax.tree.structure(after) == jax.tree.structure(state)
    shapes = [[(x.shape, x.dtype) for x in jax.tree.leaves(tree)] for tree in (after, state)]
    assert shapes[0] == shapes[1]


def test_the_masked_method_trains_the_very_rows_of_the_sparse_one():
    tables, losses = {}, {}
    with quick_compilation():
        for name in (SMF, MASKED):
            method = make_method(name, config(), BUDGET)
            frozen, state = method.begin(models.random_leaves(config()))
            step = jax.jit(method.step)
            state, losses[name] = step(state, frozen, models.random_usage(config()), batch())
            tables[name] = np.asarray(jax.tree.leaves(state[0])[0])
    start = models.random_leaves(config())["memory/pool_1/values"]
    changed = [np.any(table != start, axis=1) for table in tables.values()]
    assert changed[0].sum() == BUDGET
    np.testing.assert_array_equal(*changed)
    np.testing.assert_allclose(tables[SMF], tables[MASKED], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(losses[SMF], losses[MASKED], rtol=1e-5)


def test_batches_are_taken_in_turn():
    taken = []

    def run(state, frozen, usage, batch):
        taken.append((state, batch))
        return state + 1, 0.0

    call = stepping(run, 0, {}, None, ["a", "b"])
    for repetition in range(3):
        call(repetition)
    assert taken == [(0, "a"), (1, "b"), (2, "a")]
