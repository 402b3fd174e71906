"""What a trial has come to within a task, as arrays by path: what a step checkpoint holds.

States are those of trials side by side, in a leading axis, where a place is asked for; what is put
back goes into the state of one trial at the start of the same task.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from smf_jax.sharding import unstack
from smf_jax.split_tables import SplitTable
from smf_jax.tables import is_implicit

Taken = dict[str, Any]  # arrays on the host, by path


def take_state(state: Any, place: int) -> Taken:
    """All leaves of a trial's state, on the host."""
    # One leaf after the other, so that no device holds a second state; a copy, as the next step
    # takes the buffers over.
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {path_of(path): np.array(unstack(leaf, place)) for path, leaf in leaves}


def put_state(state: Any, taken: Taken) -> Any:
    """The state of one trial with what `take_state` gave in place of its own leaves."""

    def placed(path: Any, leaf: Any) -> Any:
        return jax.device_put(taken[path_of(path)], leaf.device)

    return jax.tree_util.tree_map_with_path(placed, state)


def rows_at(table: Any, place: int, slots: np.ndarray) -> np.ndarray:
    """Rows of a trial's table, of either kind, on the host: the table itself never travels."""
    # Padded to a power of two, so that few lengths are compiled.
    padded = np.resize(slots, 1 << len(slots).bit_length())
    if isinstance(table, SplitTable):
        return _rows_of_parts(unstack(table.part, place), padded)[: len(slots)]
    if is_implicit(table) and isinstance(table.rows, SplitTable):
        places = np.asarray(unstack(table.index, place)[padded])
        return _rows_of_parts(unstack(table.rows.part, place), places)[: len(slots)]
    found = unstack(table, place)[padded] if is_implicit(table) else unstack(table, place, padded)
    return np.array(found)[: len(slots)]


def _rows_of_parts(table: jax.Array | np.ndarray, slots: np.ndarray) -> np.ndarray:
    """Rows of an array of which several devices have a part each, on the host."""
    if isinstance(table, np.ndarray):
        return table[slots]
    rows = np.zeros((len(slots), table.shape[1]), table.dtype)
    for shard in table.addressable_shards:
        of_slots, of_columns = shard.index
        first, end, _ = of_slots.indices(table.shape[0])
        mine = np.flatnonzero((slots >= first) & (slots < end))
        local = np.resize(slots[mine] - first, len(slots)) if len(mine) else slots * 0
        rows[mine, of_columns] = np.asarray(shard.data[local])[: len(mine)]
    return rows


def path_of(keys: Any) -> str:
    """The path of a leaf in a checkpoint, from its keys in a tree."""
    return jax.tree_util.keystr(keys, simple=True, separator="/")
