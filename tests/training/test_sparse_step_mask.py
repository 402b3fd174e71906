"""A step with ``mask="gradient"``, as published: what it moves beyond its mask, against optax."""

from __future__ import annotations

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from smf_jax.params import pool_path
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.sparse_config import SparseConfig
from tests.training import tiny

MODEL = tiny.model_config()
POOL = pool_path(0)
RULE = OptimizerConfig("adamw", weight_decay=0.1)
RATE = 0.05


def test_a_leaky_step_is_adamw_on_the_masked_gradient_of_the_whole_table():
    run = tiny.sparse_run(SparseConfig(optimizer=RULE, mask="gradient"))
    state, settings = run.start(), tiny.settings(RATE)
    adamw = optax.adamw(RATE, weight_decay=RULE.weight_decay)
    table = state.tables[POOL]
    moments = adamw.init(table)
    for seed in range(3):
        batch = tiny.batch(seed)
        slots = tiny.expected_slots(run, state, batch, settings)[POOL]
        _, gradients = tiny.loss_and_gradient(MODEL)({**run.base, POOL: state.tables[POOL]}, batch)
        chosen = jnp.isin(jnp.arange(tiny.SLOTS), jnp.asarray(slots))
        masked = jnp.where(chosen[:, None], gradients[POOL], 0)
        updates, moments = adamw.update(masked, moments, table)
        table = cast(jax.Array, optax.apply_updates(table, updates))
        state, metrics = run.step(state, batch, settings)
        assert int(metrics.selected) == 5
        np.testing.assert_allclose(state.tables[POOL], table, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("mask", "decay"), [("gradient", 0.1), ("gradient", 0.0), ("update", 0.1)])
def test_only_a_leaky_step_moves_rows_that_were_never_selected_or_long_ago(mask, decay):
    rule = OptimizerConfig("adamw", weight_decay=decay)
    run = tiny.sparse_run(SparseConfig(optimizer=rule, mask=mask))
    state, settings = run.start(), tiny.settings(RATE)
    selected, leaked = set(), set()
    for seed in range(3):
        batch = tiny.batch(seed)
        slots = set(tiny.expected_slots(run, state, batch, settings)[POOL].tolist())
        before, (state, _) = state, run.step(state, batch, settings)
        moved = np.any(before.tables[POOL] != state.tables[POOL], axis=1)
        leaked |= set(np.flatnonzero(moved)) - slots
        selected |= slots
    moved = set(np.flatnonzero(run.base[POOL] != state.tables[POOL]) // tiny.MEMORY.value_width)
    assert moved == set(np.flatnonzero(state.written[POOL]))
    if mask == "update":
        assert not leaked
    elif decay:
        assert moved == set(range(tiny.SLOTS)) - {1}, "decay moves every row but that of zeros"
    else:
        assert leaked and leaked <= selected, "moments keep moving what was selected before"


def test_a_leaky_step_that_is_not_finite_changes_nothing_and_is_latched():
    run = tiny.sparse_run(SparseConfig(optimizer=RULE, mask="gradient"))
    state = run.start()
    after, metrics = run.step(state, tiny.spoilt(tiny.batch()), tiny.settings())
    tiny.same_but_for(after, state, "step", "failed_step")
    assert (int(after.failed_step), int(metrics.selected)) == (0, 0)


def test_a_leaky_step_has_one_optimizer_with_one_rate():
    with pytest.raises(ValueError, match="mask='gradient' and alpha_rate=2.0 exclude each other"):
        SparseConfig(mask="gradient", train_alpha=True, alpha_rate=2.0)


def test_its_state_is_as_large_as_that_of_dense_adam():
    run = tiny.sparse_run(SparseConfig(optimizer=RULE, mask="gradient"))
    state = run.start()
    dense = RULE.transformation().init({POOL: state.tables[POOL]})
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (state.scalar_opt_state, dense)]
    assert shapes[0] == shapes[1] and state.stores == {POOL: None}
