"""Tables of many sets of patches: the rows of all of them once, and an index for each set.

A table is an `ImplicitTable` whose store holds the base's rows and behind them those that each
patch wrote. A set of patches is then an index ``(N,)`` of places in the store: four bytes a slot,
made in a moment, and all sets share the shapes that programs are compiled for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from smf_jax.sparse.exactness import rows_differ
from smf_jax.sparse.patch import Patch
from smf_jax.tables import ImplicitTable

_LEAST_ROOM = 1024  # rows of patches that a store has room for; it grows by doubling


@dataclass(frozen=True)
class SharedTable:
    """The rows of a base's table and of all patches."""

    rows: np.ndarray  # ``(R, v)``, the first is zero
    placed: ImplicitTable  # the same store on the device, with the index of the base
    index: np.ndarray  # ``(N,)`` int32, of the base
    starts: tuple[int, ...]  # for each patch, the place in ``rows`` of the first that it wrote

    def with_patches(self, path: str, patches: Mapping[int, Patch]) -> ImplicitTable:
        """The table of a set, ``patches`` by their number in order.

        A ValueError names a patch whose old rows are not those that it is put upon, bit for bit.
        """
        if not any(path in patch.pools for patch in patches.values()):
            return self.placed
        index = self.index.copy()
        for number, patch in patches.items():
            if (change := patch.pools.get(path)) is None:
                continue
            if rows_differ(self.rows[index[change.slots]], change.old).any():
                raise ValueError(f"patch {patch.task!r} does not fit on the patches before it")
            start = self.starts[number]
            index[change.slots] = np.arange(start, start + change.slots.size, dtype=np.int32)
        return ImplicitTable(jnp.asarray(index), self.placed.rows, self.placed.used)


def share_table(table: Any, path: str, patches: Sequence[Patch]) -> SharedTable:
    """Joins a base's table ``(N, v)``, in NumPy, with what all patches wrote in it."""
    if isinstance(table, ImplicitTable):
        index, base = np.asarray(table.index), np.asarray(table.rows)[: int(table.used)]
    else:
        index = np.arange(1, len(table) + 1, dtype=np.int32)
        base = np.concatenate([np.zeros((1, table.shape[1]), table.dtype), table])
    changes = [patch.pools.get(path) for patch in patches]
    counts = [0 if change is None else change.slots.size for change in changes]
    starts = np.cumsum([len(base), *counts])[:-1]
    room = _LEAST_ROOM
    while room < sum(counts):
        room *= 2
    rows = np.zeros((len(base) + room, base.shape[1]), base.dtype)
    rows[: len(base)] = base
    for start, change in zip(starts, changes, strict=True):
        if change is not None:
            rows[start : start + change.slots.size] = change.new
    placed = ImplicitTable(jnp.asarray(index), jnp.asarray(rows), jnp.asarray(np.int32(len(rows))))
    return SharedTable(rows, placed, index, tuple(int(start) for start in starts))
