"""Row-lazy updates: unselected rows keep every bit, and only selected rows advance."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.sparse.row_optimizer import (
    create_store,
    empty_store,
    step_rows,
    update_rows,
    write_step,
)
from tests import oracles
from tests.sparse import contract, recorded

POOL = "memory/pool_1/values"
SLOTS, WIDTH, _ = recorded.POOLS[POOL]


@partial(jax.jit, static_argnames="optimizer")
def update(values, store, slots, gradients, optimizer, scale=1.0):
    return update_rows(values, store, slots, gradients, optimizer, scale)


def recorded_rows(dtype: type = np.float32):
    """Per step, the slots and the gradients of their rows."""
    for step in recorded.steps(dtype):
        slots = step.slots[POOL]
        dense = np.concatenate([step.dense_gradients()[POOL], np.zeros((1, WIDTH))])
        yield slots, dense[slots].astype(dtype)


def bits(array):
    array = np.asarray(array)
    return array.view({2: np.int16, 4: np.int32, 8: np.int64}[array.dtype.itemsize])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", contract.OPTAX)
def test_rows_that_are_not_selected_keep_every_bit_and_their_state(name, dtype):
    optimizer = contract.OPTAX[name]
    values = recorded.tables(np.float32)[POOL]
    values[5], values[6], values[7] = np.nan, -np.inf, 1e-42
    spoilt = np.array([5, 6, 7])
    table = jnp.asarray(values, dtype)
    store = create_store(optimizer, table, SLOTS)
    moved = set()
    for slots, gradients in recorded_rows():
        slots = np.where(np.isin(slots, spoilt), SLOTS, slots)
        before, held = table, store
        table, store = update(table, store, slots, gradients, optimizer)
        changed = np.flatnonzero((bits(before) != bits(table)).any(axis=1))
        assert set(changed) <= set(slots.tolist())
        moved |= set(changed)
        if store is not None:
            assert held is not None
            kept = np.setdiff1d(np.flatnonzero(np.asarray(held.places) < SLOTS), slots)
            waiting = [(s.opt_state, s.masters) for s in (held, store)]
            places = np.asarray(held.places)[kept]
            old, new = jax.tree.map(lambda leaf, at=places: np.asarray(leaf)[at], waiting)
            jax.tree.map(np.testing.assert_array_equal, old, new)
    assert len(moved) > 20
    assert store is None or int(store.used) >= len(moved)


@pytest.mark.parametrize("name", contract.OPTAX)
def test_rows_follow_an_optimizer_of_their_own(name):
    with jax.enable_x64(True):
        optimizer = contract.OPTAX[name]
        table, truth = jnp.asarray(recorded.tables()[POOL]), recorded.tables()[POOL]
        store, alone = create_store(optimizer, table, SLOTS), contract.Alone(optimizer)
        for slots, gradients in recorded_rows(np.float64):
            table, store = update(table, store, slots, gradients, optimizer)
            used = slots < SLOTS
            alone.step(truth, slots[used], gradients[used])
            np.testing.assert_allclose(table, truth, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", oracles.OPTIMIZERS)
def test_named_optimizers_follow_a_plain_oracle(name):
    with jax.enable_x64(True):
        optimizer = OptimizerConfig(name, weight_decay=0.1).transformation()
        table, truth = jnp.asarray(recorded.tables()[POOL]), recorded.tables()[POOL]
        store, oracle = create_store(optimizer, table, SLOTS), oracles.RowLazyOptimizer(name, 0.1)
        for slots, gradients in recorded_rows(np.float64):
            table, store = update(table, store, slots, gradients, optimizer, np.float64(0.3))
            used = slots < SLOTS
            oracle.step(truth, slots[used].tolist(), gradients[used], 0.3)
            np.testing.assert_allclose(table, truth, rtol=0, atol=1e-13)


def test_steps_of_different_scales_share_a_compilation_and_extra_arguments_arrive():
    def times(updates, state, params=None, *, factor, **_):
        return updates * factor, state

    optimizer = optax.chain(
        optax.GradientTransformationExtraArgs(*cast(Any, (lambda _: optax.EmptyState(), times))),
        optax.sgd(1.0, 0.9),
    )
    table, traces = jnp.zeros((SLOTS, WIDTH)), []
    store = create_store(optimizer, table, 4, extra_args={"factor": 1.0})

    @jax.jit
    def step(scale, factor):
        traces.append(scale)
        slots, gradients = jnp.asarray([3], jnp.int32), jnp.ones((1, WIDTH))
        return update_rows(table, store, slots, gradients, optimizer, scale, factor=factor)

    for scale, factor in ((0.5, 1.0), (0.25, -1.0)):
        after, _ = step(scale, factor)
        np.testing.assert_array_equal(after[3], np.full(WIDTH, -scale * factor))
    assert len(traces) == 1


def test_an_optimizer_that_mixes_rows_is_refused():
    mixing = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
    with pytest.raises(ValueError, match="optimizer mixes rows"):
        create_store(mixing, jnp.zeros((SLOTS, WIDTH)), 4)


def test_a_row_that_waits_keeps_its_state():
    optimizer, table = optax.adam(0.3), jnp.asarray(recorded.tables(np.float32)[POOL])
    gradient = jnp.ones((1, WIDTH))
    steady, waiting = (create_store(optimizer, table, 4) for _ in range(2))
    first, second, other = (jnp.asarray([slot], jnp.int32) for slot in (3, 3, 9))
    a, steady = update(table, steady, first, gradient, optimizer)
    a, steady = update(a, steady, second, -gradient, optimizer)
    b, waiting = update(table, waiting, first, gradient, optimizer)
    for _ in range(5):
        b, waiting = update(b, waiting, other, gradient, optimizer)
    b, waiting = update(b, waiting, second, -gradient, optimizer)
    np.testing.assert_array_equal(bits(a[3]), bits(b[3]))


def test_bfloat16_tables_move_under_steps_below_their_precision():
    optimizer = optax.sgd(1e-4)
    start = jnp.asarray(np.linspace(0.5, 2, SLOTS * WIDTH).reshape(SLOTS, WIDTH), jnp.bfloat16)
    narrow, wide = start, start.astype(jnp.float32)
    none = store = create_store(optimizer, narrow, SLOTS)
    slots, gradients = jnp.asarray([4, 8, SLOTS], jnp.int32), jnp.ones((3, WIDTH))
    for _ in range(100):
        narrow, store = update(narrow, store, slots, gradients, optimizer)
        wide, none = update(wide, None, slots, gradients, optimizer)
    assert store is not None and store.masters is not None
    assert none is None and narrow.dtype == jnp.bfloat16 and store.masters.dtype == jnp.float32
    once = update(start, create_store(optimizer, start, 3), slots, gradients, optimizer)[0]
    np.testing.assert_array_equal(once, start, err_msg="one step is below the precision")
    assert (np.asarray(narrow[4]) < np.asarray(start[4])).all()
    np.testing.assert_array_equal(narrow, wide.astype(jnp.bfloat16))


def test_a_store_only_where_something_is_kept():
    table = jnp.zeros((SLOTS, WIDTH))
    assert create_store(optax.sgd(1.0), table, 3) is None
    narrow = create_store(optax.sgd(1.0), table.astype(jnp.bfloat16), 3)
    assert narrow is not None and narrow.masters is not None
    assert narrow.masters.shape == (3, WIDTH)
    store = create_store(optax.adamw(1.0), table, 3)
    assert store is not None
    assert store.masters is None and store.places.shape == (SLOTS,)
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(store.opt_state))
    assert empty_store(None) is None
    with pytest.raises(ValueError, match="capacity=0 must be at least 1 row"):
        create_store(optax.adamw(1.0), table, 0)


def test_an_emptied_store_starts_again():
    optimizer, table = optax.adam(0.3), jnp.asarray(recorded.tables(np.float32)[POOL])
    slots, gradients = next(rows for rows in recorded_rows() if (rows[0] < SLOTS).sum() > 3)
    fresh = create_store(optimizer, table, SLOTS)
    used = fresh
    for other_slots, other in recorded_rows():
        _, used = update(table, used, other_slots, other, optimizer)
    after_fresh, _ = update(table, fresh, slots, gradients, optimizer)
    after_emptied, emptied = update(table, empty_store(used), slots, gradients, optimizer)
    after_used, _ = update(table, used, slots, gradients, optimizer)
    np.testing.assert_array_equal(bits(after_fresh), bits(after_emptied))
    assert (bits(after_fresh) != bits(after_used)).any()
    assert int(emptied.used) == (slots < SLOTS).sum()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_store_that_overflows_latches_and_writes_nothing(dtype):
    optimizer, table = optax.sgd(0.3, momentum=0.9), jnp.ones((SLOTS, WIDTH), dtype)
    gradients = jnp.ones((3, WIDTH))
    store = create_store(optimizer, table, 4)
    for ids in ([7, 1, SLOTS], [1, 2, 3]):
        table, store = update(table, store, jnp.asarray(ids, jnp.int32), gradients, optimizer)
        assert not store.overflowed
    assert int(store.used) == 4, "a full store is no overflow"
    table, store = update(table, store, jnp.asarray([3, 7, 2], jnp.int32), gradients, optimizer)
    assert not store.overflowed, "rows that have a place take no other"
    for ids in ([1, 9, SLOTS], [1, 2, 3]):
        before = store
        after, store = update(table, store, jnp.asarray(ids, jnp.int32), gradients, optimizer)
        assert store.overflowed
        np.testing.assert_array_equal(after, table)
        unchanged = before._replace(overflowed=store.overflowed)
        jax.tree.map(np.testing.assert_array_equal, store, unchanged)
    emptied = empty_store(store)
    assert emptied is not None and not emptied.overflowed


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_step_that_is_not_accepted_leaves_no_trace(name):
    optimizer, table = contract.OPTAX[name], jnp.asarray(recorded.tables(np.float32)[POOL])
    (slots, gradients), (others, other_gradients) = list(recorded_rows())[2:4]
    store = create_store(optimizer, table, SLOTS)
    table, store = update(table, store, slots, gradients, optimizer)

    @jax.jit
    def refused(table, store, gradients):
        step = step_rows(table, store, jnp.asarray(others), gradients, optimizer)
        return write_step(table, store, step, jnp.zeros((), bool))

    after, store_after = refused(table, store, other_gradients * np.nan)
    np.testing.assert_array_equal(bits(after), bits(table))
    jax.tree.map(np.testing.assert_array_equal, store_after, store)


@pytest.mark.parametrize("name", contract.OPTAX)
def test_a_donated_table_is_written_in_place(name):
    optimizer, rows, width = contract.OPTAX[name], 2**16, 32
    table = jax.ShapeDtypeStruct((rows, width), jnp.float32)
    store = jax.eval_shape(lambda: create_store(optimizer, jnp.zeros(table.shape), 1024))
    slots = jax.ShapeDtypeStruct((64,), jnp.int32)
    gradients = jax.ShapeDtypeStruct((64, width), jnp.float32)
    donating = jax.jit(
        lambda table, store, slots, gradients: update_rows(
            table, store, slots, gradients, optimizer
        ),
        donate_argnums=(0, 1),
    )
    memory = donating.lower(table, store, slots, gradients).compile().memory_analysis()
    assert memory is not None
    assert memory.alias_size_in_bytes >= rows * width * 4
    assert memory.temp_size_in_bytes < rows * width * 4 / 16
