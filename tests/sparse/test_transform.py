"""The reference transform: against the fast path, against optax, and bit for bit elsewhere."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from smf_jax.sparse.optimizers import OPTIMIZERS, OptimizerConfig
from smf_jax.sparse.row_optimizer import create_store, update_rows
from smf_jax.sparse.rows import row_gradient
from smf_jax.sparse.transform import freeze_all_but_rows
from tests import golden, oracles
from tests.sparse import contract, recorded

POOLS = recorded.POOLS
PLAIN = {"weight_decay": 0.1}
FULL = PLAIN | {
    "clip": 2.0,
    "schedule": "cosine",
    "warmup_steps": 3,
    "schedule_steps": recorded.STEPS,
}


def both_paths(rule, rate):
    """One jitted step of the fast path and of the reference."""
    optimizer = rule.transformation()
    transform = freeze_all_but_rows(
        optimizer, tuple(POOLS), max_norm=rule.clip, schedule=partial(rule.rate, rate)
    )

    @jax.jit
    def step(number, fast, stores, params, state, reads, slots, gradients):
        rows = {pool: row_gradient(reads[pool], slots[pool], POOLS[pool][0]) for pool in POOLS}
        rows = rule.clipped(rows)
        now = rule.rate(rate, number)
        pairs = {
            pool: update_rows(fast[pool], stores[pool], slots[pool], rows[pool], optimizer, now)
            for pool in POOLS
        }
        updates, state = transform.update(gradients, state, params, slots=slots)
        fast, stores = ({pool: pair[i] for pool, pair in pairs.items()} for i in (0, 1))
        return fast, stores, optax.apply_updates(params, updates), state

    return step, transform


@pytest.mark.parametrize(
    ("optimizer", "choices"),
    [*((name, PLAIN) for name in oracles.OPTIMIZERS), ("momentum", FULL), ("adamw", FULL)],
)
def test_the_fast_path_and_a_plain_oracle_agree_with_it(optimizer, choices):
    with jax.enable_x64(True):
        rule, rate = OptimizerConfig(optimizer, **choices), jnp.asarray(0.2, jnp.float64)
        step, transform = both_paths(rule, rate)
        fast, params = jax.tree.map(jnp.asarray, (recorded.tables(), recorded.tables()))
        truth = recorded.tables()
        inner = rule.transformation()
        stores = {pool: create_store(inner, fast[pool], POOLS[pool][0]) for pool in POOLS}
        state = transform.init(params)
        plain = {pool: oracles.RowLazyOptimizer(optimizer, 0.1) for pool in POOLS}
        for number, given in enumerate(recorded.steps()):
            gradients = given.dense_gradients()
            fast, stores, params, state = step(
                jnp.asarray(number, jnp.int32), fast, stores, params, state, *given, gradients
            )
            step_by_oracle(plain, truth, given.slots, gradients, rule, 0.2, number)
            for pool in POOLS:
                np.testing.assert_allclose(fast[pool], params[pool], rtol=0, atol=1e-12)
                np.testing.assert_allclose(fast[pool], truth[pool], rtol=0, atol=1e-12)
        assert int(cast(Any, state).step) == recorded.STEPS


def step_by_oracle(plain, values, slots, gradients, rule, rate, number):
    """Clip over all selected rows, then rows one by one, at the rate of the step."""
    picked = {pool: ids[ids < POOLS[pool][0]].tolist() for pool, ids in slots.items()}
    rows = {pool: gradients[pool][ids] for pool, ids in picked.items()}
    if rule.clip is not None:
        norm = math.sqrt(sum((row**2).sum() for row in rows.values()))
        rows = {pool: row * min(1, rule.clip / max(norm, 1e-30)) for pool, row in rows.items()}
    if rule.schedule == "cosine":
        warmup, steps = rule.warmup_steps, rule.schedule_steps
        progress = max(number - warmup, 0) / (steps - warmup)
        rate *= min(1, (number + 1) / warmup) * (1 + math.cos(math.pi * progress)) / 2
    for pool, ids in picked.items():
        plain[pool].step(values[pool], ids, rows[pool], rate)


def a_model():
    """Nested parameters with ``-0.0``, NaN and other dtypes beside a table."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((6, 2)).astype(np.float32)
    values[1], values[4] = -0.0, np.nan
    return {
        "memory": {"pool_0": {"values": jnp.asarray(values)}},
        "layers": [{"kernel": jnp.asarray([[-0.0, 0.0, jnp.inf]])}, {"bias": jnp.ones(3)}],
        "narrow": jnp.asarray([-0.0, 1.5], jnp.bfloat16),
    }


@pytest.mark.parametrize("name", contract.OPTAX)
def test_rows_follow_an_optimizer_of_their_own(name):
    with jax.enable_x64(True):
        optimizer = contract.OPTAX[name]
        transform = freeze_all_but_rows(optimizer, tuple(POOLS))
        update, alone = (
            jax.jit(transform.update),
            {pool: contract.Alone(optimizer) for pool in POOLS},
        )
        params, truth = jax.tree.map(jnp.asarray, recorded.tables()), recorded.tables()
        state = transform.init(params)
        for given in recorded.steps():
            gradients = given.dense_gradients()
            updates, state = update(gradients, state, params, slots=given.slots)
            params = cast(Any, optax.apply_updates(params, updates))
            for pool, of_pool in alone.items():
                used = given.slots[pool][given.slots[pool] < POOLS[pool][0]]
                of_pool.step(truth[pool], used, gradients[pool][used])
                np.testing.assert_allclose(params[pool], truth[pool], rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_bfloat16_table_trains_float32_masters(name):
    # Steps far below half a bfloat16 step of 1: without masters nothing would ever move.
    rate, steps, path = 2.0**-12, 40, "values"
    start = jnp.asarray([[1.0, -2.0], [3.0, 0.5], [0.25, 1.0]], jnp.bfloat16)
    slots = {path: jnp.asarray([2, 0, 3], jnp.int32)}
    optimizer = OptimizerConfig(name, weight_decay=0.0).transformation()
    schedule = optax.constant_schedule(rate)
    wide, narrow = ({path: table} for table in (start.astype(jnp.float32), start))
    transform = freeze_all_but_rows(optimizer, [path], schedule=schedule)
    states: list[Any] = [transform.init(tables) for tables in (wide, narrow)]
    gradient = {path: jnp.ones((3, 2), jnp.bfloat16)}
    for _ in range(steps):
        updates, states[0] = transform.update(
            {path: jnp.ones((3, 2))}, states[0], wide, slots=slots
        )
        wide = cast(Any, optax.apply_updates(wide, updates))
        updates, states[1] = transform.update(gradient, states[1], narrow, slots=slots)
        narrow = cast(Any, optax.apply_updates(narrow, updates))
    assert narrow[path].dtype == jnp.bfloat16
    np.testing.assert_array_equal(narrow[path], wide[path].astype(jnp.bfloat16))
    np.testing.assert_allclose(wide[path][0], start[0].astype(jnp.float32) - rate * steps, 1e-3)
    assert (narrow[path] != start).all(axis=1).tolist() == [True, False, True]
    # What somebody else writes into the table is where the next step goes on from.
    other = {path: narrow[path].at[0].set(7)}
    updates, _ = transform.update(gradient, states[1], other, slots=slots)
    other = cast(Any, optax.apply_updates(other, updates))
    assert (jnp.abs(other[path][0] - 7) < 0.1).all()


@pytest.mark.parametrize("name", contract.OPTAX)
def test_everything_that_is_not_selected_keeps_every_bit(name):
    params, path = a_model(), "memory/pool_0/values"
    transform = freeze_all_but_rows(contract.OPTAX[name], [path])
    state, gradients = cast(Any, transform.init(params)), jax.tree.map(jnp.ones_like, params)
    update = jax.jit(transform.update)
    for ids in ([0, 2, 6], [3, 6, 6], [2, 5, 0]):
        slots = {path: jnp.asarray(ids, jnp.int32)}
        held = state.opt_state[path]
        updates, state = update(gradients, state, params, slots=slots)
        waits = np.isin(np.arange(6), ids, invert=True)
        for old, new in zip(*map(jax.tree.leaves, (held, state.opt_state[path])), strict=True):
            np.testing.assert_array_equal(np.asarray(old)[waits], np.asarray(new)[waits])
        before, params = params, optax.apply_updates(params, updates)
        for (name, old), new in zip(
            jax.tree.leaves_with_path(before), jax.tree.leaves(params), strict=True
        ):
            assert old.dtype == new.dtype
            width = np.int16 if old.dtype == jnp.bfloat16 else np.int32
            same = np.asarray(old).view(width) == np.asarray(new).view(width)
            is_table = "values" in str(name)
            expected = np.isin(np.arange(6), ids, invert=True) if is_table else True
            np.testing.assert_array_equal(same.all(axis=1) if is_table else same.all(), expected)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_with_every_row_selected_it_is_plain_optax(optimizer):
    rate = 0.1
    table = {"values": jnp.asarray(np.random.default_rng(0).standard_normal((6, 2)), jnp.float32)}
    plain = {
        "sgd": optax.sgd(rate),
        "momentum": optax.sgd(rate, momentum=0.9),
        "nesterov": optax.sgd(rate, momentum=0.9, nesterov=True),
        "lion": optax.lion(rate, weight_decay=0.1),
        "rmsprop": optax.rmsprop(rate, eps_in_sqrt=False),
        "adagrad": optax.adagrad(rate, initial_accumulator_value=0.0, eps=1e-16),
        "adabelief": optax.adabelief(rate),
        "adam": optax.adam(rate),
        "adamw": optax.adamw(rate, weight_decay=0.1),
    }[optimizer]
    named = OptimizerConfig(optimizer, weight_decay=0.1).transformation()
    ours = freeze_all_but_rows(named, ["values"], schedule=optax.constant_schedule(rate))
    everything = {"values": jnp.arange(6)}

    @jax.jit
    def step(a, b, a_state, b_state, gradient):
        a_updates, a_state = ours.update(gradient, a_state, a, slots=everything)
        b_updates, b_state = plain.update(gradient, b_state, b)
        a, b = optax.apply_updates(a, a_updates), optax.apply_updates(b, b_updates)
        return a, b, a_state, b_state

    a, b, a_state, b_state = table, table, ours.init(table), plain.init(table)
    for seed in range(4):
        gradient = {"values": jax.random.normal(jax.random.key(seed), (6, 2))}
        a, b, a_state, b_state = step(a, b, a_state, b_state, gradient)
        np.testing.assert_allclose(a["values"], b["values"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("path", golden.SELECTIONS)
def test_the_masked_step_of_the_public_implementation(path):
    arrays, _ = golden.load(path)
    params = {"values": jnp.asarray(arrays["values_before"])}
    gradients = {"values": jnp.asarray(arrays["grad_dense"])}
    transform = freeze_all_but_rows(optax.sgd(1.0), ["values"])
    slots = {"values": jnp.asarray(arrays["selected"])}
    updates, _ = cast(Any, transform.update(gradients, transform.init(params), params, slots=slots))
    np.testing.assert_array_equal(-updates["values"], arrays["grad_masked"])
    by_two = freeze_all_but_rows(optax.sgd(2.0), ["values"])
    updates, _ = by_two.update(gradients, by_two.init(params), params, slots=slots)
    after = cast(Any, optax.apply_updates(params, updates))["values"]
    expected = arrays["values_after_sgd_lr2"]
    np.testing.assert_allclose(after, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    changed = (np.asarray(after) != arrays["values_before"]).any(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(changed), np.sort(arrays["selected"]))


def test_unknown_tables_and_missing_arguments_are_refused():
    params = {"a": {"values": jnp.ones((3, 2))}, "b": jnp.ones(2)}
    gradients, slots = params, {"a/values": jnp.asarray([0])}
    with pytest.raises(ValueError, match=r"tables=\['c/values'\] are not in the parameters; .*'b'"):
        freeze_all_but_rows(optax.sgd(1.0), ["a/values", "c/values"]).init(params)
    transform = freeze_all_but_rows(optax.sgd(1.0), ["a/values"])
    state = transform.init(params)
    with pytest.raises(ValueError, match="params=None; row rules read the rows"):
        transform.update(gradients, state, slots=slots)
    with pytest.raises(ValueError, match=r"slots names tables \['b'\], trained are \['a/values'\]"):
        transform.update(gradients, state, params, slots={"b": slots["a/values"]})
    with pytest.raises(ValueError, match="optimizer mixes rows: .* Give max_norm= "):
        freeze_all_but_rows(optax.lamb(1.0), ["a/values"])


def test_max_norm_bounds_the_selected_rows_of_all_tables_and_nothing_else():
    params = {"a": jnp.zeros((3, 1)), "b": jnp.zeros((2, 1))}
    gradients = {"a": jnp.asarray([[3.0], [9.0], [0.0]]), "b": jnp.asarray([[9.0], [4.0]])}
    transform = freeze_all_but_rows(optax.sgd(1.0), ["a", "b"], max_norm=1.0)
    slots = {"a": jnp.asarray([0, 3]), "b": jnp.asarray([1, 2])}
    updates, _ = cast(Any, transform.update(gradients, transform.init(params), params, slots=slots))
    np.testing.assert_allclose(updates["a"], [[-0.6], [0.0], [0.0]], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], [[0.0], [-0.8]], rtol=1e-6)
