"""The rows that a task has written, as arrays, and back into the tables of its start."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from smf_jax.models.decoder import Decoder
from smf_jax.params import pool_path
from smf_jax.sharding import stack, unstack
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.tables import empty_table, is_implicit, written_rows
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_snapshot import put_sparse_state, take_sparse_state
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Shared
from tests.training import tiny

MODEL, POOL = tiny.model_config((0,), "add"), pool_path(0)


def run(optimizer: str, implicit: bool, **more: Any):
    """A trainer, its state at the start of a second task, and that three steps later."""
    base: Any
    model, base = MODEL, tiny.params(MODEL)
    if implicit:
        model = tiny.model_config((0,), "add", init_rows="zero")
        base = {**base, POOL: empty_table(tiny.SLOTS, 6)}
    config = SparseConfig(optimizer=OptimizerConfig(optimizer), **more)
    trainer = sparse_trainer(Decoder(model), config, tiny.SLOTS)
    shared, settings = Shared(trainer.frozen(base), tiny.usage(MODEL)), tiny.settings(0.1)
    state = trainer.grow(trainer.begin(base, settings), 6)
    step = jax.jit(trainer.step)
    begins = jax.jit(trainer.begin_task)
    start = state
    for task in range(2):
        start = state = begins(shared, state, tiny.batches(2, start=task), settings)
        for number in range(3):
            state, _ = step(shared, state, tiny.batch(10 * task + number), settings)
    return trainer, step, shared, settings, start, state


@pytest.mark.parametrize(
    ("optimizer", "implicit", "more"),
    [
        ("sgd", False, {}),
        ("adam", True, {}),
        ("adam", False, dict(protect_written=1.0, granularity="per_task")),
    ],
)
def test_a_state_goes_on_to_the_bit_from_the_rows_in_use(optimizer, implicit, more):
    _, step, shared, settings, start, state = run(optimizer, implicit, **more)
    taken = take_sparse_state(stack([start, state]), 1)
    back = put_sparse_state(start, taken)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    written = int(np.sum(state.written[POOL]))
    assert 0 < written < tiny.SLOTS
    assert taken[f"written/{POOL}/rows"].shape == (written, 6)
    held = [leaf for path, leaf in taken.items() if path.startswith("stores/")]
    assert bool(held) == (optimizer == "adam")
    assert all(leaf.shape[0] == written for leaf in held if leaf.ndim)  # and not those of task one
    for number in (7, 8):
        state, measured = step(shared, state, tiny.batch(number), settings)
        back, again = step(shared, back, tiny.batch(number), settings)
        assert np.asarray(measured).tobytes() == np.asarray(again).tobytes()
    one, other = state.tables[POOL], back.tables[POOL]
    if is_implicit(one):
        one, other = (
            np.concatenate([a.reshape(-1) for a in written_rows(t)]) for t in (one, other)
        )
    assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    for field in ("written", "step", "failed_step", "scalars", "task_slots", "history"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, field), getattr(back, field))


def test_nothing_written_is_nothing_taken():
    _, _, _, _, start, _ = run("adam", True)
    taken = take_sparse_state(stack([start, start]), 0)
    assert taken[f"written/{POOL}/rows"].shape == (0, 6)
    back = put_sparse_state(unstack(stack([start]), 0), taken)
    assert back.tables[POOL] == start.tables[POOL]
