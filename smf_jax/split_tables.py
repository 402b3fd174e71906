"""Tables that devices along the axis ``memory`` hold a part of each.

In layout ``columns`` a device has some numbers of every row, in layout ``rows`` all numbers of some
rows. A row that is read or stepped is whole on every device: what travels is what was read, never
the table. Inside of a function that the mesh runs (`smf_jax.sharding.over_trials`) a table's array
is the device's part; outside it is the whole of it, as JAX splits arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Int, Shaped

from smf_jax.mesh import MEMORY, gather_over, own_part, parts_along, sum_over
from smf_jax.shapes import SlotIds

TableLayout = Literal["columns", "rows"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class SplitTable:
    """A table ``(N, v)`` over the devices along ``memory``; leading axes are of its array alone."""

    part: Any  # this device's, ``(N, v / m)`` or ``(N / m, v)``; outside the whole, ``(N, v)``
    shape: tuple[int, int] = field(metadata={"static": True})  # ``(N, v)`` of the whole
    layout: TableLayout = field(metadata={"static": True})
    parts: int = field(metadata={"static": True})  # ``m``

    @property
    def dtype(self) -> np.dtype:
        """Of its numbers."""
        return self.part.dtype

    @property
    def size(self) -> int:
        """Numbers of the whole."""
        return self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    # No sequence of rows, which would be fetched one by one.
    __iter__ = None

    def spec(self, *lead: str | None) -> PartitionSpec:
        """How its array lies on a mesh, after leading axes."""
        return PartitionSpec(*lead, *((None, MEMORY) if self.layout == "columns" else (MEMORY,)))


def is_split(leaf: Any) -> bool:
    """Whether a leaf of a tree is such a table."""
    return isinstance(leaf, SplitTable)


def whole(leaf: Any) -> Any:
    """Outside of what the mesh runs: the array of a split table, any other leaf itself."""
    return leaf.part if isinstance(leaf, SplitTable) else leaf


def shared(leaf: Any) -> Any:
    """Inside of what the mesh runs over several devices a split table itself, else its `whole`."""
    return leaf if parts_along(MEMORY) > 1 else whole(leaf)


def zeros_beside(table: SplitTable, rows: int, dtype: Any) -> Any:
    """Zeros ``(rows, v)``, over the devices of a table by columns; whole if these do not divide."""
    width = table.shape[1]
    if width % table.parts:
        return jnp.zeros((rows, width), dtype)
    own = width // parts_along(MEMORY)
    return SplitTable(jnp.zeros((rows, own), dtype), (rows, width), "columns", table.parts)


def own_places(
    table: SplitTable, slots: Int[Array, "..."]
) -> tuple[Int[Array, "..."], Bool[Array, "..."]]:
    """Where slots stand in a device's part of layout ``rows``, and which do; 0 where they do not.

    Unused places, whose slot is ``N``, stand in no part.
    """
    size = table.part.shape[-2]
    first = lax.axis_index(MEMORY) * size if parts_along(MEMORY) > 1 else 0
    places = slots - first
    own = (places >= 0) & (places < size)
    return jnp.where(own, places, 0).astype(jnp.int32), own


def gather(table: SplitTable, slots: SlotIds) -> Shaped[Array, "s v"]:
    """The whole rows of ``slots``, bit for bit, on every device; zeros at unused places."""
    if table.layout == "columns":
        return gather_over(MEMORY, table.part.at[slots].get(mode="fill", fill_value=0), 1)
    places, own = own_places(table, slots)
    rows = jnp.where(own[:, None], table.part.at[places].get(mode="promise_in_bounds"), 0)
    # Bits and not numbers are summed: one device alone has any, and -0.0 stays what it is.
    bits = lax.bitcast_convert_type(rows, f"uint{8 * rows.dtype.itemsize}")
    summed = sum_over(MEMORY, bits.astype(jnp.promote_types(bits.dtype, jnp.uint32)))
    return lax.bitcast_convert_type(summed.astype(bits.dtype), rows.dtype)


def scatter(table: SplitTable, slots: SlotIds, rows: Shaped[Array, "s v"]) -> SplitTable:
    """Writes whole rows at distinct slots, each device what it has of them; unused are dropped."""
    rows, part = rows.astype(table.dtype), table.part
    if table.layout == "columns":
        return replace(table, part=part.at[slots].set(own_part(MEMORY, rows, 1), mode="drop"))
    places, own = own_places(table, slots)
    where = jnp.where(own, places, part.shape[0])
    return replace(table, part=part.at[where].set(rows, mode="drop"))


def rows_moved(before: SplitTable, after: SplitTable) -> Bool[Array, " N"]:
    """Which rows of two tables of one layout differ as numbers; every device is told of all."""
    moved = jnp.any(before.part != after.part, axis=1)
    if before.layout == "rows":
        return gather_over(MEMORY, moved)
    return sum_over(MEMORY, moved.astype(jnp.int32)) > 0


def check_split(path: str, shape: tuple[int, ...], parts: int, layout: TableLayout) -> None:
    """Refuses a table that so many devices do not divide."""
    size, of = (shape[1], "value width") if layout == "columns" else (shape[0], "slots")
    if size % parts:
        raise ValueError(
            f"--mesh=memory:{parts}: {path} has {of} {size}, which {parts} devices do not divide "
            f"(--table_layout={layout}); choose a divisor, or the other layout"
        )
