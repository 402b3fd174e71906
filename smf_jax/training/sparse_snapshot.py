"""What a trial of sparse finetuning has come to within a task: its rows, and not its tables.

As `smf_jax.training.snapshot`, whose arrays by path these are: of a table, and of its optimizer's
state, the rows in use. What earlier tasks wrote stands in the state that they are put into.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from smf_jax.sharding import unstack
from smf_jax.sparse.row_optimizer import RowStore, capacity_of
from smf_jax.sparse.rows import write_rows
from smf_jax.split_tables import is_split, whole
from smf_jax.training.snapshot import Taken, path_of, put_state, rows_at, take_state
from smf_jax.training.sparse_step import SparseState


def take_sparse_state(state: SparseState, place: int) -> Taken:
    """What the task has changed of a trial's state, on the host."""
    taken = take_state(_without_rows(state), place)
    for pool, table in state.tables.items():
        slots = np.flatnonzero(unstack(state.written[pool], place))
        taken[f"written/{pool}/slots"] = slots.astype(np.int32)
        taken[f"written/{pool}/rows"] = rows_at(table, place, slots)
        if (store := state.stores[pool]) is None:
            continue
        used = int(unstack(store.used, place))
        # Counted by a power of two, so that few lengths are compiled.
        first = slice(0, 1 << used.bit_length())
        places = np.asarray(unstack(store.places, place))
        slots = np.flatnonzero(places < capacity_of(store, axis=1))
        rows = (store.opt_state, store.masters)
        for path, leaf in jax.tree_util.tree_leaves_with_path(rows, is_leaf=is_split):
            name = f"stores/{pool}/rows/{path_of(path)}"
            taken[name] = np.array(unstack(whole(leaf), place, first))[:used]
        taken[f"stores/{pool}/slots"] = slots.astype(np.int32)
        taken[f"stores/{pool}/places"] = places[slots]
        taken[f"stores/{pool}/used"] = np.int32(used)
        taken[f"stores/{pool}/overflowed"] = np.array(unstack(store.overflowed, place))
    return taken


def put_sparse_state(state: SparseState, taken: Taken) -> SparseState:
    """The state at the start of a task with what `take_sparse_state` gave written into it."""
    rest = put_state(_without_rows(state), taken)
    tables, written, stores = {}, {}, {}
    for pool, table in state.tables.items():
        device = state.written[pool].device
        slots = jax.device_put(taken[f"written/{pool}/slots"], device)
        rows = jax.device_put(taken[f"written/{pool}/rows"], device)
        tables[pool] = write_rows(table, slots, rows)
        written[pool] = jnp.zeros_like(state.written[pool]).at[slots].set(True)
        stores[pool] = _put_store(state.stores[pool], f"stores/{pool}", taken, device)
    return rest._replace(tables=tables, written=written, stores=stores)


def _put_store(store: RowStore | None, at: str, taken: Taken, device: Any) -> RowStore | None:
    if store is None:
        return None

    def saved(name: str) -> Array:
        return jax.device_put(taken[f"{at}/{name}"], device)

    capacity = capacity_of(store)
    opt_state, masters = jax.tree_util.tree_map_with_path(
        lambda path, leaf: _with_first(leaf, saved(f"rows/{path_of(path)}")),
        (store.opt_state, store.masters),
        is_leaf=is_split,
    )
    places = jnp.full_like(store.places, capacity).at[saved("slots")].set(saved("places"))
    return RowStore(places, saved("used"), saved("overflowed"), opt_state, masters)


def _with_first(kept: Any, rows: Array) -> Any:
    """Rows of a store, the first of which are given."""
    array = whole(kept).at[: len(rows)].set(rows)
    return replace(kept, part=array) if is_split(kept) else array


def _without_rows(state: SparseState) -> SparseState:
    return state._replace(tables={}, stores={}, written={})
