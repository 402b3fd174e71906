"""Row-lazy updates: unselected rows keep every bit, and only selected rows advance."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.sparse.optimizers import OPTIMIZERS, OptimizerConfig
from smf_jax.sparse.row_optimizer import (
    create_store,
    empty_store,
    step_rows,
    update_rows,
    write_step,
)
from tests import oracles
from tests.sparse import recorded

POOL = "memory/pool_1/values"
SLOTS, WIDTH, _ = recorded.POOLS[POOL]
RATE = np.float32(0.3)


@partial(jax.jit, static_argnames="rule")
def update(values, store, slots, gradients, rule, rate=RATE):
    return update_rows(values, store, slots, gradients, rule, rate)


def recorded_rows(dtype=np.float32):
    """Per step, the slots and the gradients of their rows."""
    for step in recorded.steps(dtype):
        slots = step.slots[POOL]
        dense = np.concatenate([step.dense_gradients()[POOL], np.zeros((1, WIDTH))])
        yield slots, dense[slots].astype(dtype)


def bits(array):
    array = np.asarray(array)
    return array.view({2: np.int16, 4: np.int32, 8: np.int64}[array.dtype.itemsize])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_rows_that_are_not_selected_keep_every_bit(optimizer, dtype):
    rule = OptimizerConfig(optimizer, weight_decay=0.1)
    values = recorded.tables(np.float32)[POOL]
    values[5], values[6], values[7] = np.nan, -np.inf, 1e-42
    spoilt = np.array([5, 6, 7])
    table = jnp.asarray(values, dtype)
    store = create_store(rule, table, SLOTS)
    moved = set()
    for slots, gradients in recorded_rows():
        slots = np.where(np.isin(slots, spoilt), SLOTS, slots)
        before, (table, store) = table, update(table, store, slots, gradients, rule)
        changed = np.flatnonzero((bits(before) != bits(table)).any(axis=1))
        assert set(changed) <= set(slots.tolist())
        moved |= set(changed)
    assert len(moved) > 20
    assert store is None or int(store.used) >= len(moved)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_rows_follow_an_optimizer_of_their_own(optimizer):
    with jax.enable_x64(True):
        rule = OptimizerConfig(optimizer, weight_decay=0.1)
        table, truth = jnp.asarray(recorded.tables()[POOL]), recorded.tables()[POOL]
        store, oracle = create_store(rule, table, SLOTS), oracles.RowLazyOptimizer(optimizer, 0.1)
        for slots, gradients in recorded_rows(np.float64):
            table, store = update(table, store, slots, gradients, rule, rate=np.float64(0.3))
            used = slots < SLOTS
            oracle.step(truth, slots[used].tolist(), gradients[used], 0.3)
            np.testing.assert_allclose(table, truth, rtol=0, atol=1e-13)


def test_a_row_that_waits_keeps_its_state():
    rule, table = OptimizerConfig("adam"), jnp.asarray(recorded.tables(np.float32)[POOL])
    gradient = jnp.ones((1, WIDTH))
    steady, waiting = (create_store(rule, table, 4) for _ in range(2))
    first, second, other = (jnp.asarray([slot], jnp.int32) for slot in (3, 3, 9))
    a, steady = update(table, steady, first, gradient, rule)
    a, steady = update(a, steady, second, -gradient, rule)
    b, waiting = update(table, waiting, first, gradient, rule)
    for _ in range(5):
        b, waiting = update(b, waiting, other, gradient, rule)
    b, waiting = update(b, waiting, second, -gradient, rule)
    np.testing.assert_array_equal(bits(a[3]), bits(b[3]))


def test_bfloat16_tables_move_under_steps_below_their_precision():
    rule = OptimizerConfig("sgd")
    start = jnp.asarray(np.linspace(0.5, 2, SLOTS * WIDTH).reshape(SLOTS, WIDTH), jnp.bfloat16)
    narrow, wide = start, start.astype(jnp.float32)
    store = create_store(rule, narrow, SLOTS)
    slots, gradients = jnp.asarray([4, 8, SLOTS], jnp.int32), jnp.ones((3, WIDTH))
    for _ in range(100):
        narrow, store = update(narrow, store, slots, gradients, rule, rate=np.float32(1e-4))
        wide, none = update(wide, None, slots, gradients, rule, rate=np.float32(1e-4))
    assert none is None and narrow.dtype == jnp.bfloat16 and store.masters.dtype == jnp.float32
    once = update(start, create_store(rule, start, 3), slots, gradients, rule, np.float32(1e-4))[0]
    np.testing.assert_array_equal(once, start, err_msg="one step is below the precision")
    assert (np.asarray(narrow[4]) < np.asarray(start[4])).all()
    np.testing.assert_array_equal(narrow, wide.astype(jnp.bfloat16))


def test_a_store_only_where_something_is_kept():
    table = jnp.zeros((SLOTS, WIDTH))
    assert create_store(OptimizerConfig("sgd"), table, 3) is None
    assert create_store(OptimizerConfig("sgd"), table.astype(jnp.bfloat16), 3).masters.shape == (
        3,
        WIDTH,
    )
    store = create_store(OptimizerConfig("adamw"), table, 3)
    assert store.masters is None and store.index.shape == (SLOTS,)
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(store.opt_state))
    assert empty_store(None) is None
    with pytest.raises(ValueError, match="capacity=0 must be at least 1 row"):
        create_store(OptimizerConfig("adamw"), table, 0)


def test_an_emptied_store_starts_again():
    rule, table = OptimizerConfig("adam"), jnp.asarray(recorded.tables(np.float32)[POOL])
    slots, gradients = next(rows for rows in recorded_rows() if (rows[0] < SLOTS).sum() > 3)
    fresh = create_store(rule, table, SLOTS)
    used = fresh
    for other_slots, other in recorded_rows():
        _, used = update(table, used, other_slots, other, rule)
    after_fresh, _ = update(table, fresh, slots, gradients, rule)
    after_emptied, emptied = update(table, empty_store(used), slots, gradients, rule)
    after_used, _ = update(table, used, slots, gradients, rule)
    np.testing.assert_array_equal(bits(after_fresh), bits(after_emptied))
    assert (bits(after_fresh) != bits(after_used)).any()
    assert int(emptied.used) == (slots < SLOTS).sum()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_store_that_overflows_latches_and_writes_nothing(dtype):
    rule, table = OptimizerConfig("momentum"), jnp.ones((SLOTS, WIDTH), dtype)
    gradients = jnp.ones((3, WIDTH))
    store = create_store(rule, table, 4)
    for ids in ([7, 1, SLOTS], [1, 2, 3]):
        table, store = update(table, store, jnp.asarray(ids, jnp.int32), gradients, rule)
        assert not store.overflowed
    assert int(store.used) == 4, "a full store is no overflow"
    table, store = update(table, store, jnp.asarray([3, 7, 2], jnp.int32), gradients, rule)
    assert not store.overflowed, "rows that have a place take no other"
    for ids in ([1, 9, SLOTS], [1, 2, 3]):
        before = store
        after, store = update(table, store, jnp.asarray(ids, jnp.int32), gradients, rule)
        assert store.overflowed
        np.testing.assert_array_equal(after, table)
        unchanged = before._replace(overflowed=store.overflowed)
        jax.tree.map(np.testing.assert_array_equal, store, unchanged)
    assert not empty_store(store).overflowed


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_that_is_not_accepted_leaves_no_trace(optimizer):
    rule, table = OptimizerConfig(optimizer), jnp.asarray(recorded.tables(np.float32)[POOL])
    (slots, gradients), (others, other_gradients) = list(recorded_rows())[2:4]
    store = create_store(rule, table, SLOTS)
    table, store = update(table, store, slots, gradients, rule)

    @jax.jit
    def refused(table, store, gradients):
        step = step_rows(table, store, others, gradients, rule, RATE)
        return write_step(table, store, step, jnp.zeros((), bool))

    after, store_after = refused(table, store, other_gradients * np.nan)
    np.testing.assert_array_equal(bits(after), bits(table))
    jax.tree.map(np.testing.assert_array_equal, store_after, store)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_donated_table_is_written_in_place(optimizer):
    rule, rows, width = OptimizerConfig(optimizer), 2**16, 32
    table = jax.ShapeDtypeStruct((rows, width), jnp.float32)
    store = jax.eval_shape(lambda: create_store(rule, jnp.zeros(table.shape), 1024))
    slots = jax.ShapeDtypeStruct((64,), jnp.int32)
    gradients = jax.ShapeDtypeStruct((64, width), jnp.float32)
    donating = jax.jit(
        lambda table, store, slots, gradients: update_rows(
            table, store, slots, gradients, rule, jnp.float32(1)
        ),
        donate_argnums=(0, 1),
    )
    memory = donating.lower(table, store, slots, gradients).compile().memory_analysis()
    assert memory.alias_size_in_bytes >= rows * width * 4
    assert memory.temp_size_in_bytes < rows * width * 4 / 16
