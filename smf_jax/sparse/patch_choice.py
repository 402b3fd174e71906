"""Many patches over one base, one of them in force: choosing another writes the rows of two."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smf_jax.shapes import Rows, SlotIds, Table
from smf_jax.sparse.exactness import rows_differ
from smf_jax.sparse.patch import Patch
from smf_jax.tables import is_implicit, put

_LEAST = 64  # slots that are written at once: a program is compiled for this and each double of it


class PatchChoice:
    """Parameters of a base with one of many patches, or none.

    Every patch was made on the base itself. Tables are written in place: those of `params` are
    copies of the base's, valid until the next choice.
    """

    def __init__(self, params: Mapping[str, Any], patches: Mapping[str, Patch], base: str) -> None:
        """Starts with no patch in force.

        Args:
          params: leaves of the base by path, NumPy or JAX, which stay as they are.
          patches: by the name that `choose` takes.
          base: fingerprint of the base.

        Raises:
          ValueError: a patch is of another base, or was made after another patch.
        """
        for name, patch in patches.items():
            if patch.base != base:
                raise ValueError(
                    f"patch {name!r} belongs to base {patch.base[:12]}, this is base {base[:12]}; "
                    "give those of one base"
                )
            if patch.parent != base:
                raise ValueError(
                    f"patch {name!r} was made after state {patch.parent[:12]}, not on the base; "
                    "join it with those before it, by stack_patches"
                )
        self._base, self._patches = dict(params), dict(patches)
        self._params, self.name = dict(params), None
        for path in {path for patch in patches.values() for path in patch.pools}:
            if path in params and not is_implicit(params[path]):
                self._params[path] = params[path].copy()

    @property
    def params(self) -> dict[str, Any]:
        """All leaves by path, with the chosen patch; not to be kept over the next choice."""
        return dict(self._params)

    def choose(self, name: str | None) -> None:
        """Puts a patch in force in the place of the one before; ``None`` for the base.

        Raises:
          ValueError: no patch has that name, or its old rows or scalars are not the base's, bit
            for bit; the base is in force then.
        """
        if name is not None and name not in self._patches:
            near = difflib.get_close_matches(name, self._patches, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {len(self._patches)}"
            raise ValueError(f"no patch {name!r}; {hint}")
        if self.name is not None:
            before, self.name = self._patches[self.name], None
            for path, change in before.pools.items():
                self._write(path, change.slots, change.old)
            self._params |= {path: self._base[path] for path in before.scalars}
        if name is None:
            return
        patch = self._patches[name]
        self._require(name, patch)
        for path, change in patch.pools.items():
            self._write(path, change.slots, change.new)
        for path, change in patch.scalars.items():
            kind = jnp.asarray if isinstance(self._base[path], jax.Array) else np.asarray
            self._params[path] = kind(change.new)
        self.name = name

    def _require(self, name: str, patch: Patch) -> None:
        """Refuses a patch whose old values are not the base's."""
        wrong = []
        for path, change in patch.pools.items():
            table, shape = self._params.get(path), (change.table_slots, change.old.shape[1])
            fits = table is not None and (table.shape, table.dtype) == (shape, change.old.dtype)
            if not fits or rows_differ(self._rows(path, change.slots), change.old).any():
                wrong.append(path)
        for path, change in patch.scalars.items():
            here = np.asarray(self._base.get(path))
            if (here.dtype, here.tobytes()) != (change.old.dtype, change.old.tobytes()):
                wrong.append(path)
        if wrong:
            raise ValueError(
                f"patch {name!r} does not fit: {', '.join(wrong)} of the base are not what it was "
                "made on; give the base it belongs to"
            )

    def _rows(self, path: str, slots: np.ndarray) -> np.ndarray:
        table = self._params[path]
        if not isinstance(table, jax.Array):
            return np.asarray(table[slots])
        return np.asarray(_gather(table, _padded(slots, len(table))))[: len(slots)]

    def _write(self, path: str, slots: np.ndarray, rows: np.ndarray) -> None:
        table = self._params[path]
        if is_implicit(table):  # from the base's, or rows of patches before would add up
            self._params[path] = put(self._base[path], slots, rows)
        elif isinstance(table, jax.Array):
            places = _padded(slots, len(table))
            filled = np.zeros((len(places), rows.shape[1]), rows.dtype)
            filled[: len(slots)] = rows
            self._params[path] = _scatter(table, places, filled)
        else:
            table[slots] = rows


def _padded(slots: np.ndarray, table_slots: int) -> np.ndarray:
    """Slots and unused places, whose id is ``N``, up to the next size that is compiled."""
    size = _LEAST
    while size < len(slots):
        size *= 2
    return np.pad(slots, (0, size - len(slots)), constant_values=table_slots).astype(np.int32)


@jax.jit
def _gather(table: Table, slots: SlotIds) -> Rows:
    return table.at[slots].get(mode="fill", fill_value=0)


@partial(jax.jit, donate_argnums=0)
def _scatter(table: Table, slots: SlotIds, rows: Rows) -> Table:
    return table.at[slots].set(rows, mode="drop")
