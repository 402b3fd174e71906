"""Whole states as arrays, and back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.models.decoder import Decoder
from smf_jax.sharding import stack
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.tables import empty_table, put
from smf_jax.training.dense_step import DenseState
from smf_jax.training.snapshot import put_state, rows_at, take_state
from smf_jax.training.trainers import dense_trainer
from tests.training import tiny


def states() -> list[DenseState]:
    trainer = dense_trainer(Decoder(tiny.model_config()), OptimizerConfig("adamw"))
    base = tiny.params(tiny.model_config())
    return [trainer.begin(base, tiny.settings(seed=seed)) for seed in (0, 1)]


def test_a_dense_state_comes_back_to_the_bit():
    one, other = states()
    other = jax.tree.map(lambda leaf: leaf + jnp.ones((), leaf.dtype), other)
    taken = take_state(stack([one, other]), 1)
    assert {"step", "failed_step"} < taken.keys()
    assert all(path.count("//") == 0 and "." not in path for path in taken)
    back = put_state(one, taken)
    assert jax.tree.structure(back) == jax.tree.structure(one)
    for mine, theirs in zip(jax.tree.leaves(back), jax.tree.leaves(other), strict=True):
        assert np.asarray(mine).tobytes() == np.asarray(theirs).tobytes()
        assert (mine.dtype, mine.weak_type) == (theirs.dtype, False)
    with pytest.raises(KeyError, match="step"):
        put_state(one, {path: leaf for path, leaf in taken.items() if path != "step"})


def test_what_was_taken_outlives_the_buffers():
    state = {"a": jnp.arange(6.0).reshape(2, 3)}
    taken = take_state(state, 1)["a"]
    jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 0, tree), donate_argnums=0)(state)
    assert taken.tolist() == [3.0, 4.0, 5.0]


@pytest.mark.parametrize("slots", [[], [2], [5, 0, 3]])
def test_rows_of_a_table_of_either_kind(slots):
    whole = jnp.arange(24.0).reshape(2, 6, 2)
    at = np.asarray(slots, np.int64)
    np.testing.assert_array_equal(rows_at(whole, 1, at), np.asarray(whole)[1, slots])
    tables = [put(empty_table(6, 2), np.arange(1, 6), np.asarray(each)[1:]) for each in whole]
    expected = np.asarray(whole)[1, slots] * (at > 0)[:, None]
    np.testing.assert_array_equal(rows_at(stack(tables), 1, at), expected)
