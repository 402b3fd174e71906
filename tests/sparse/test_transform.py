"""The reference transform: against the fast path, against optax, and bit for bit elsewhere."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from smf_jax.sparse.row_optimizer import create_store, update_rows
from smf_jax.sparse.rows import row_gradient
from smf_jax.sparse.transform import freeze_all_but_rows
from smf_jax.sparse.update_rule import OPTIMIZERS, UpdateRule
from tests import golden, oracles
from tests.sparse import recorded

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
    transform = freeze_all_but_rows(rule, tuple(POOLS), rate)

    @jax.jit
    def step(number, fast, stores, params, state, reads, slots, gradients):
        rows = {pool: row_gradient(reads[pool], slots[pool], POOLS[pool][0]) for pool in POOLS}
        rows = rule.clipped(rows)
        now = rule.rate(rate, number)
        pairs = {
            pool: update_rows(fast[pool], stores[pool], slots[pool], rows[pool], rule, now)
            for pool in POOLS
        }
        updates, state = transform.update(gradients, state, params, slots=slots)
        fast, stores = ({pool: pair[i] for pool, pair in pairs.items()} for i in (0, 1))
        return fast, stores, optax.apply_updates(params, updates), state

    return step, transform


@pytest.mark.parametrize(
    ("optimizer", "choices"),
    [*((name, PLAIN) for name in OPTIMIZERS), ("momentum", FULL), ("adamw", FULL)],
)
def test_the_fast_path_and_a_plain_oracle_agree_with_it(optimizer, choices):
    with jax.enable_x64(True):
        rule, rate = UpdateRule(optimizer, **choices), jnp.asarray(0.2, jnp.float64)
        step, transform = both_paths(rule, rate)
        fast, params, truth = ({pool: f(t) for pool, t in recorded.tables().items()}
                               for f in (jnp.asarray, jnp.asarray, np.array))  # fmt: skip
        stores = {pool: create_store(rule, fast[pool], POOLS[pool][0]) for pool in POOLS}
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
        assert int(state.step) == recorded.STEPS


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


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_everything_that_is_not_selected_keeps_every_bit(optimizer):
    params, path = a_model(), "memory/pool_0/values"
    transform = freeze_all_but_rows(UpdateRule(optimizer, weight_decay=0.1), [path], 0.5)
    state, gradients = transform.init(params), jax.tree.map(jnp.ones_like, params)
    update = jax.jit(transform.update)
    for ids in ([0, 2, 6], [3, 6, 6], [2, 5, 0]):
        slots = {path: jnp.asarray(ids, jnp.int32)}
        updates, state = update(gradients, state, params, slots=slots)
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
        "adam": optax.adam(rate),
        "adamw": optax.adamw(rate, weight_decay=0.1),
    }[optimizer]
    ours = freeze_all_but_rows(UpdateRule(optimizer, weight_decay=0.1), ["values"], rate)
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
    transform = freeze_all_but_rows(UpdateRule("sgd"), ["values"], 1.0)
    slots = {"values": jnp.asarray(arrays["selected"])}
    updates, _ = transform.update(gradients, transform.init(params), params, slots=slots)
    np.testing.assert_array_equal(-updates["values"], arrays["grad_masked"])
    by_two = freeze_all_but_rows(UpdateRule("sgd"), ["values"], 2.0)
    updates, _ = by_two.update(gradients, by_two.init(params), params, slots=slots)
    after = optax.apply_updates(params, updates)["values"]
    expected = arrays["values_after_sgd_lr2"]
    np.testing.assert_allclose(after, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    changed = (np.asarray(after) != arrays["values_before"]).any(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(changed), np.sort(arrays["selected"]))


def test_unknown_tables_and_missing_arguments_are_refused():
    params = {"a": {"values": jnp.ones((3, 2))}, "b": jnp.ones(2)}
    gradients, slots = params, {"a/values": jnp.asarray([0])}
    with pytest.raises(ValueError, match=r"tables=\['c/values'\] are not in the parameters; .*'b'"):
        freeze_all_but_rows(UpdateRule(), ["a/values", "c/values"], 1.0).init(params)
    transform = freeze_all_but_rows(UpdateRule(), ["a/values"], 1.0)
    state = transform.init(params)
    with pytest.raises(ValueError, match="params=None; row rules read the rows"):
        transform.update(gradients, state, slots=slots)
    with pytest.raises(ValueError, match=r"slots names tables \['b'\], trained are \['a/values'\]"):
        transform.update(gradients, state, params, slots={"b": slots["a/values"]})
