"""Row-lazy updates by any optax optimizer: state for the rows a task touches, and for no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from smf_jax.shapes import Rows, SlotIds
from smf_jax.sparse.each_row import check_each_row, each_row
from smf_jax.sparse.rows import gather_rows, where_rows, write_rows
from smf_jax.split_tables import SplitTable, is_split, zeros_beside
from smf_jax.tables import AnyTable, ImplicitTable, has_room


class RowStore(NamedTuple):
    """State of the rows selected so far: ``C`` places and one int32 index of ``N``.

    It waits unchanged while its row is not selected.
    """

    places: Int[Array, " N"]  # ``(N,)`` int32, a slot's place, or ``C`` where it has none
    used: Int[Array, ""]  # places taken
    # A step wanted more places than are free; it and all later ones wrote nothing.
    overflowed: Bool[Array, ""]
    # Optax state of one row, stacked over ``C``. What is ``(C, v)`` of it, and masters, lie in
    # `SplitTable`s where devices share the table.
    opt_state: Any
    masters: Any  # ``(C, v)`` float32 rows where the table is narrower, else ``None``


def _master_dtype(values: AnyTable) -> Any:
    return jnp.promote_types(jnp.float32, values.dtype)


def create_store(
    optimizer: optax.GradientTransformation,
    values: AnyTable,
    capacity: int,
    extra_args: Mapping[str, Any] | None = None,
) -> RowStore | None:
    """An empty store of ``C = capacity`` places; ``min(N, steps per task · s)`` never overflow.

    It is ``None`` for a stateless optimizer on a table of full precision: nothing has to be kept.
    ``extra_args`` are those of `check_each_row`; what that refuses is a ValueError, and so is a
    capacity below 1.
    """
    if capacity < 1:
        raise ValueError(f"capacity={capacity} must be at least 1 row")
    check_each_row(optimizer, extra_args)
    needs_masters = values.dtype != _master_dtype(values)
    rows = jax.ShapeDtypeStruct((capacity, values.shape[1]), _master_dtype(values))
    shapes = jax.eval_shape(each_row(optimizer).init, rows)
    if not jax.tree.leaves(shapes) and not needs_masters:
        return None

    table = values.rows if isinstance(values, ImplicitTable) else values

    def zeros(leaf: jax.ShapeDtypeStruct) -> Any:
        if isinstance(table, SplitTable) and leaf.shape == rows.shape:
            return zeros_beside(table, capacity, leaf.dtype)
        return jnp.zeros(leaf.shape, leaf.dtype)

    return RowStore(
        places=jnp.full(values.shape[0], capacity, jnp.int32),
        used=jnp.zeros((), jnp.int32),
        overflowed=jnp.zeros((), bool),
        opt_state=jax.tree.map(zeros, shapes),
        masters=zeros(rows) if needs_masters else None,
    )


def empty_store(store: RowStore | None) -> RowStore | None:
    """Forgets all rows, as at the start of a task, without touching the ``C`` places."""
    if store is None:
        return None
    return store._replace(
        places=jnp.full_like(store.places, capacity_of(store)),
        used=jnp.zeros_like(store.used),
        overflowed=jnp.zeros_like(store.overflowed),
    )


class RowStep(NamedTuple):
    """One step of the selected rows, computed and not yet written."""

    slots: SlotIds  # ``(s,)`` ids to write; all unused where the store cannot hold the new ones
    rows: Rows  # ``(s, v)`` rows after the step, in master precision
    moves: Bool[Array, " s"]  # whether a row will be another, as its table holds it
    states: Any  # their optax state, stacked over ``s``; ``None`` without a store
    places: Int[Array, " s"] | None  # ``(s,)`` of the rows in the store; ``None`` without one
    overflowed: Bool[Array, ""]  # out of places, at this step or since an earlier one


def step_rows(
    values: AnyTable,
    store: RowStore | None,
    slots: SlotIds,
    gradients: Rows,
    optimizer: optax.GradientTransformation,
    scale: float | Float[Array, ""] = 1.0,
    **extra_args: Any,
) -> RowStep:
    """Computes one step of the selected rows; `write_step` writes it, or none of it.

    Slots are ``(s,)`` distinct ids, ``N`` at unused places; their ``(s, v)`` gradients are already
    clipped. ``scale`` multiplies the updates: it may be traced, as the optimizer's own learning
    rate may not, so that steps that differ in it share a compilation.
    """
    each, is_full = each_row(optimizer), ~has_room(values, slots)
    if store is None:
        slots = jnp.where(is_full, values.shape[0], slots)
        rows = gather_rows(values, slots)
        updates, _ = each.update(gradients, each.init(rows), rows, **extra_args)
        after = rows + scale * updates
        return RowStep(slots, after, _differ(values, rows, after), None, None, is_full)

    # A new row's place is the next one free; where too few are left, nothing is selected.
    table_slots, capacity = values.shape[0], capacity_of(store)
    places = store.places.at[slots].get(mode="fill", fill_value=capacity)
    is_new = (places == capacity) & (slots < table_slots)
    overflowed = store.overflowed | is_full | (store.used + jnp.sum(is_new) > capacity)
    places = jnp.where(is_new, store.used + jnp.cumsum(is_new) - 1, places).astype(jnp.int32)
    slots = jnp.where(overflowed, table_slots, slots)
    rows = gather_rows(values, slots).astype(_master_dtype(values))
    if store.masters is not None:
        rows = where_rows(is_new, rows, gather_rows(store.masters, places))
    states = jax.tree.map(
        lambda fresh, kept: where_rows(is_new, fresh, gather_rows(kept, places)),
        each.init(rows),
        store.opt_state,
    )
    updates, states = each.update(gradients, states, rows, **extra_args)
    after = rows + scale * updates
    return RowStep(slots, after, _differ(values, rows, after), states, places, overflowed)


def _differ(values: AnyTable, before: Rows, after: Rows) -> Bool[Array, " s"]:
    """Which rows of two differ as numbers in a table's precision."""
    return jnp.any(before.astype(values.dtype) != after.astype(values.dtype), axis=1)


def write_step(
    values: AnyTable, store: RowStore | None, step: RowStep, accepted: Bool[Array, ""] | bool = True
) -> tuple[AnyTable, RowStore | None]:
    """Writes a step of `step_rows`, the rest of the table bit-identical.

    ``V.at[slots].set(f(V[slots]))``: everything returned hangs on that write, so a donated table
    is updated in place. A step that is not accepted drops its slot ids, which costs no copy.
    """
    table_slots = values.shape[0]
    slots = jnp.where(accepted, step.slots, table_slots)
    table = write_rows(values, slots, step.rows)
    if store is None or step.places is None:
        return table, store
    capacity = capacity_of(store)
    places = jnp.where(slots < table_slots, step.places, capacity)
    return table, RowStore(
        places=store.places.at[slots].set(places, mode="drop"),
        used=store.used + jnp.sum((places >= store.used) & (places < capacity), dtype=jnp.int32),
        overflowed=step.overflowed,
        opt_state=jax.tree.map(
            lambda kept, new: write_rows(kept, places, new),
            store.opt_state,
            step.states,
            is_leaf=is_split,
        ),
        masters=None if store.masters is None else write_rows(store.masters, places, step.rows),
    )


def update_rows(
    values: AnyTable,
    store: RowStore | None,
    slots: SlotIds,
    gradients: Rows,
    optimizer: optax.GradientTransformation,
    scale: float | Float[Array, ""] = 1.0,
    **extra_args: Any,
) -> tuple[AnyTable, RowStore | None]:
    """One step of the selected rows: `step_rows`, then `write_step`."""
    step = step_rows(values, store, slots, gradients, optimizer, scale, **extra_args)
    return write_step(values, store, step)


def capacity_of(store: RowStore, axis: int = 0) -> int:
    """The places ``C`` of a store, whose rows are counted along an axis."""
    return jax.tree.leaves((store.opt_state, store.masters))[0].shape[axis]
