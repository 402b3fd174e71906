"""Tables that start at zero: only the rows that were ever written exist.

A table of ``N`` slots that starts at zero holds nothing to store. It is an index of ``N`` row
numbers, all 0 at first, and a store of rows of which row 0 is zero and never written. Whoever reads
or writes a table, of either kind, does it by the functions below, and takes ``N`` from its shape;
nothing else knows the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, DTypeLike, Int

from smf_jax import split_tables
from smf_jax.processes import fetched
from smf_jax.shapes import Rows, SlotIds, Table
from smf_jax.split_tables import SplitTable, is_split

# What of an implicit table is saved, each below the path of the table.
_SAVED = ("slots", "rows", "table_slots")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class ImplicitTable:
    """A table ``(N, v)`` whose rows are zero until they are written; on the host or a device.

    Leading axes, of trials side by side, are those of all three of its arrays.
    """

    # ``(N,)`` int32, the number in `rows` of a slot's row; 0 of one that was never written.
    index: Any
    # ``(R, v)``; the first is zero, the last ones may be unused yet. Where devices share the table,
    # a `SplitTable` by columns.
    rows: Any
    used: Any  # int32 scalar, rows in use, the first included

    @property
    def shape(self) -> tuple[int, int]:
        """``(N, v)``, whatever is stored of it."""
        return self.index.shape[-1], self.rows.shape[-1]

    @property
    def dtype(self) -> np.dtype:
        """Of its rows."""
        return self.rows.dtype

    @property
    def size(self) -> int:
        """Numbers that are stored, those of the zero row aside."""
        return (self.rows.shape[-2] - 1) * self.rows.shape[-1]

    def __len__(self) -> int:
        return self.shape[0]

    def __eq__(self, other: object) -> Any:
        """Whether another table has the same content, to the bit."""
        if not isinstance(other, ImplicitTable) or self.shape != other.shape:
            return np.bool_(False)
        mine, theirs = written_rows(self), written_rows(other)
        pairs = zip(mine, theirs, strict=True)
        return np.bool_(all(a.tobytes() == b.tobytes() for a, b in pairs))

    __hash__ = object.__hash__
    # No sequence of rows: of millions, one by one, they would be read without an end.
    __iter__ = None

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        """No array by itself: a TypeError, where all of its rows would be made unseen."""
        raise TypeError(
            f"a table of {len(self):,} slots holds only the rows that were written; `explicit` "
            "gives all of them"
        )

    def __getitem__(self, slots: Any) -> Any:
        """The rows ``(s, v)`` of slots in ``[0, N)``."""
        return split_tables.whole(self.rows)[self.index[slots]]


AnyTable = ImplicitTable | SplitTable | Table


def empty_table(table_slots: int, width: int, dtype: DTypeLike = jnp.float32) -> ImplicitTable:
    """A table of which nothing is written."""
    index = jnp.zeros(table_slots, jnp.int32)
    return ImplicitTable(index, jnp.zeros((1, width), dtype), jnp.ones((), jnp.int32))


def located(table: Any, slots: Int[Array, ...]) -> tuple[Any, Int[Array, ...]]:
    """Rows and the places in them of slots in ``[0, N)``: where a table is to be read.

    The rows are an array, or a `SplitTable` within a function that devices share.
    """
    if isinstance(table, ImplicitTable):
        places = jnp.asarray(table.index).at[slots].get(mode="promise_in_bounds")
        return split_tables.shared(table.rows), places
    return split_tables.shared(table), slots


def gather(table: ImplicitTable, slots: SlotIds) -> Rows:
    """The rows of ``slots``, ``(s, v)``; zeros at unused places, whose id is ``N``."""
    return _rows_at(table.rows, _places(table, slots))


def has_room(table: Any, slots: SlotIds) -> Bool[Array, ""]:
    """Whether the rows of distinct ``slots`` could all be written."""
    if not isinstance(table, ImplicitTable):
        return jnp.ones((), bool)
    return table.used + jnp.sum(_is_new(table, slots)) <= table.rows.shape[0]


def scatter(table: ImplicitTable, slots: SlotIds, rows: Rows) -> ImplicitTable:
    """Writes rows at distinct slots for which it `has_room`; those of the id ``N`` are dropped."""
    is_new = _is_new(table, slots)
    fresh = (table.used + jnp.cumsum(is_new) - 1).astype(jnp.int32)
    places = jnp.where(is_new, fresh, _places(table, slots))
    where = jnp.where(slots < len(table), places, table.rows.shape[0])
    return ImplicitTable(
        index=table.index.at[slots].set(places, mode="drop"),
        rows=_with_rows(table.rows, where, rows),
        used=table.used + jnp.sum(is_new, dtype=jnp.int32),
    )


def _rows_at(store: Any, places: Int[Array, " s"]) -> Rows:
    if isinstance(store, SplitTable):
        return split_tables.gather(store, places)
    return store.at[places].get(mode="promise_in_bounds")


def _with_rows(store: Any, places: Int[Array, " s"], rows: Rows) -> Any:
    """The store with rows written; those at places beyond it are dropped."""
    if isinstance(store, SplitTable):
        return split_tables.scatter(store, places, rows)
    return store.at[places].set(rows.astype(store.dtype), mode="drop")


def _places(table: ImplicitTable, slots: SlotIds) -> Int[Array, " s"]:
    return table.index.at[slots].get(mode="fill", fill_value=0)


def _is_new(table: ImplicitTable, slots: SlotIds) -> Bool[Array, " s"]:
    return (_places(table, slots) == 0) & (slots < len(table))


def rows_moved(before: Any, after: Any) -> Bool[Array, " N"]:
    """Which rows of two tables of one kind differ as numbers."""
    if isinstance(before, SplitTable):
        return split_tables.rows_moved(before, after)
    if not isinstance(before, ImplicitTable):
        return jnp.any(before != after, axis=1)
    moved = jnp.zeros(len(before), bool)
    for one, other in ((before, after), (after, before)):
        # Of each row in use the slot, that of the zero row out of range.
        slots = jnp.zeros(one.rows.shape[0], jnp.int32)
        slots = slots.at[one.index].set(jnp.arange(len(one), dtype=jnp.int32))
        number = jnp.arange(slots.size)
        slots = jnp.where((number > 0) & (number < one.used), slots, len(one))
        differ = _rows_differ(one.rows, other.rows, _places(other, slots))
        moved = moved.at[slots].max(differ, mode="drop")
    return moved


def _rows_differ(store: Any, other: Any, places: Int[Array, " R"]) -> Bool[Array, " R"]:
    """Whether each row of a store differs from that of another at its place."""
    if not isinstance(store, SplitTable):
        return jnp.any(store != _rows_at(other, places), axis=1)
    # Part by part, as the whole of all rows would be a table.
    beside = replace(store, part=other.part.at[places].get(mode="promise_in_bounds"))
    return split_tables.rows_moved(store, beside)


# --- room for rows, at the start of a task -------------------------------------------------------


def with_capacity(table: ImplicitTable, capacity: int) -> ImplicitTable:
    """The same table with a store of so many rows; leading axes stay where they are."""
    rows = split_tables.whole(table.rows)
    missing = (*[(0, 0)] * (rows.ndim - 2), (0, capacity - rows.shape[-2]), (0, 0))
    if isinstance(rows, np.ndarray):
        rows = np.pad(rows, missing)
    else:
        rows = jax.jit(lambda rows: jnp.pad(rows, missing), out_shardings=rows.sharding)(rows)
    if isinstance(table.rows, SplitTable):
        rows = replace(table.rows, part=rows, shape=(capacity, table.rows.shape[1]))
    return replace(table, rows=rows)


def with_room(table: Any, wanted: int) -> Any:
    """A table with room for so many new rows, itself where it has it, or has all of its rows.

    A store that grows doubles at least: a program is compiled for each of its sizes.
    """
    if not isinstance(table, ImplicitTable):
        return table
    need = min(int(np.max(fetched(table.used))) + wanted, len(table) + 1)
    if need <= table.rows.shape[-2]:
        return table
    return with_capacity(table, min(2 * need, len(table) + 1))


def of_one_capacity(trees: list[Any]) -> list[Any]:
    """Trees of one structure whose tables have stores of one size, so that they can be stacked."""
    found = [leaf for tree in trees for leaf in _tables_of(tree)]
    if not found:
        return trees
    most = max(table.rows.shape[-2] for table in found)

    def grown(leaf: Any) -> Any:
        return with_capacity(leaf, most) if isinstance(leaf, ImplicitTable) else leaf

    return [jax.tree.map(grown, tree, is_leaf=is_implicit) for tree in trees]


def is_implicit(leaf: Any) -> bool:
    """Whether a leaf of parameters is a table that holds written rows only."""
    return isinstance(leaf, ImplicitTable)


def _tables_of(tree: Any) -> list[ImplicitTable]:
    leaves = jax.tree.leaves(tree, is_leaf=is_implicit)
    return [leaf for leaf in leaves if isinstance(leaf, ImplicitTable)]


# --- on the host ---------------------------------------------------------------------------------


def on_host(leaf: Any) -> Any:
    """A leaf of parameters in NumPy, of the kind it is."""
    return jax.tree.map(lambda part: np.asarray(split_tables.whole(part)), leaf, is_leaf=is_split)


def written_rows(table: ImplicitTable) -> tuple[np.ndarray, np.ndarray]:
    """Slots, ascending, and rows of all that are not zero to the bit: the table's content."""
    index, rows = np.asarray(table.index), np.asarray(split_tables.whole(table.rows))
    slots = np.flatnonzero(index)
    found = rows[index[slots]]
    kept = found.view(f"u{found.dtype.itemsize}").any(axis=1)
    return slots[kept].astype(np.int32), found[kept]


def aligned(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slots of two tables of one shape, outside of which both are zero, and their rows of each."""
    if not (isinstance(a, ImplicitTable) and isinstance(b, ImplicitTable)):
        slots = np.arange(len(a))
        a, b = (np.asarray(explicit(table)) for table in (a, b))
        return slots, a, b
    slots = np.union1d(written_rows(a)[0], written_rows(b)[0])
    return slots, np.asarray(a[slots]), np.asarray(b[slots])


def put(table: Any, slots: Any, rows: Any) -> Any:
    """A table with rows at distinct slots written, of the kind it was, which stays as it is."""
    slots, rows = np.asarray(slots), np.asarray(rows)
    if not isinstance(table, ImplicitTable):
        if isinstance(table, jax.Array):
            return table.at[slots].set(rows)
        changed = np.array(table)
        changed[slots] = rows
        return changed
    index, used = np.array(table.index), int(table.used)
    new = slots[index[slots] == 0]
    index[new] = np.arange(used, used + len(new))
    store = np.zeros((used + len(new), rows.shape[1]), table.dtype)
    store[:used] = np.asarray(table.rows)[:used]
    store[index[slots]] = rows
    kind: Any = jnp.asarray if isinstance(table.rows, jax.Array) else np.asarray
    return ImplicitTable(kind(index), kind(store), kind(np.int32(used + len(new))))


def explicit(table: Any) -> Any:
    """A table with all of its ``N`` rows, on the host where it was implicit."""
    if not isinstance(table, ImplicitTable):
        return table
    slots, rows = written_rows(table)
    whole = np.zeros(table.shape, table.dtype)
    whole[slots] = rows
    return whole


def implicit(table: np.ndarray) -> ImplicitTable:
    """The rows of a whole table that are not zero to the bit, in NumPy."""
    slots = np.flatnonzero(table.view(f"u{table.dtype.itemsize}").any(axis=1))
    return _of_rows(slots, table[slots], len(table))


def _of_rows(slots: np.ndarray, rows: np.ndarray, table_slots: int) -> ImplicitTable:
    index = np.zeros(table_slots, np.int32)
    index[slots] = np.arange(1, len(slots) + 1)
    store = np.concatenate([np.zeros((1, rows.shape[1]), rows.dtype), rows])
    return ImplicitTable(index, store, np.int32(len(store)))


def packed(params: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves by path as they are saved and named by fingerprints: arrays only.

    Of an implicit table that is its content, whatever the room of its store and the order in which
    rows were written.
    """
    arrays = {}
    for path, leaf in params.items():
        if isinstance(leaf, ImplicitTable):
            told = (*written_rows(leaf), np.int32(len(leaf)))
            arrays |= {
                f"{path}/{name}": np.asarray(e) for name, e in zip(_SAVED, told, strict=True)
            }
        else:
            arrays[path] = leaf
    return arrays


def unpacked(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of which `packed` made arrays; implicit tables in NumPy."""
    leaves = dict(arrays)
    for name in [name for name in arrays if name.endswith(f"/{_SAVED[-1]}")]:
        path = name.removesuffix(f"/{_SAVED[-1]}")
        slots, rows, table_slots = (leaves.pop(f"{path}/{each}") for each in _SAVED)
        leaves[path] = _of_rows(slots, rows, int(table_slots))
    return leaves


def packed_like(shapes: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Shapes of what `packed` gives for leaves of such shapes, with as many rows as are found."""
    expected = {}
    for path, leaf in shapes.items():
        if not isinstance(leaf, ImplicitTable):
            expected[path] = leaf
            continue
        slots = found.get(f"{path}/{_SAVED[0]}")
        count = 0 if slots is None else int(np.prod(slots.shape))
        told = ((count,), np.int32), ((count, leaf.shape[1]), leaf.dtype), ((), np.int32)
        named = zip(_SAVED, told, strict=True)
        expected |= {f"{path}/{name}": jax.ShapeDtypeStruct(*each) for name, each in named}
    return expected
