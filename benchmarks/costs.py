"""Bytes and operations that the algorithm needs, counted from shapes: the floor under a time.

Bytes are operands and results once, and a row for every read unless the table has fewer; what a
program keeps in between is not counted. Operations are two per multiply and add, without a top-k.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from benchmarks.machine import Rates
from smf_jax.memory.config import MemoryConfig
from smf_jax.sparse.selection import budget_size

_INDEX = _WIDE = 4  # bytes of a slot id or a count; of a score, a gradient, a row being updated


class Cost(NamedTuple):
    """What one call needs: bytes to be moved, operations of floating-point arithmetic."""

    bytes: float
    operations: float

    def __add__(self, other: "Cost") -> "Cost":  # pyright: ignore[reportIncompatibleMethodOverride]
        return Cost(self.bytes + other.bytes, self.operations + other.operations)

    def floor_seconds(self, rates: Rates) -> float:
        """The time below which no program on this machine can come."""
        return max(self.bytes / rates.copy_bytes, self.operations / rates.operations)


@dataclass(frozen=True)
class BlockShape:
    """A memory block, its tokens ``t`` and width ``d``, and the rows that a step may change."""

    memory: MemoryConfig
    tokens: int = 512
    width: int = 256
    budget: int = 512
    dtype: str = "float32"
    table_dtype: str = "float32"

    @property
    def slots(self) -> int:
        return self.memory.slots

    @property
    def reads(self) -> int:
        return self.tokens * self.memory.reads_per_token

    @property
    def table_bytes(self) -> int:
        return self.slots * self.memory.value_width * jnp.dtype(self.table_dtype).itemsize

    @property
    def static_size(self) -> int:
        """Places for selected rows in a step of this budget."""
        return min(budget_size(self.budget), self.slots)

    @property
    def selected(self) -> int:
        """Rows that a step writes at most."""
        return min(self.budget, self.slots, self.reads)

    @property
    def setting(self) -> dict[str, int]:
        """What tells measurements of this block from those of others."""
        return {"table_slots": self.slots, "tokens": self.tokens}


def block_costs(shape: BlockShape) -> dict[str, Cost]:
    """Costs of a step, its parts and the dense ways, from shapes, by the names of the cases."""
    memory, t, d, s = shape.memory, shape.tokens, shape.width, shape.selected
    v, reads, narrow = memory.value_width, shape.reads, jnp.dtype(shape.dtype).itemsize
    row_bytes = shape.table_bytes // shape.slots
    key_numbers = memory.heads * memory.key_width * (memory.keys_per_half + t)
    # All keys against all queries: kd/2 multiply-adds a score.
    scoring = t * memory.heads * 2 * memory.keys_per_half * memory.key_width
    lookup = Cost(_WIDE * key_numbers + reads * (_INDEX + _WIDE), scoring)
    others = reads * (_INDEX + narrow) + t * v * narrow
    read = Cost(min(reads, shape.slots) * row_bytes + others, 2.0 * reads * v)
    weights = d * memory.heads * memory.key_width
    products = 2.0 * t * weights
    if memory.gate == "silu":
        weights += 2 * d * v
        products += 2.0 * t * d * v * 3  # gate, output, and back through output
    forward = Cost(narrow * (weights + 3 * t * d), products) + lookup + read
    # Counting the reads and ranking those that were made: the ids, and two sets of statistics.
    select = Cost(4 * reads * _INDEX, 4.0 * reads)
    # By reads, or as one matrix product where that is less.
    row_gradient = Cost(reads * (_INDEX + _WIDE) + _WIDE * (t + s) * v, 2.0 * min(s * t, reads) * v)
    write = Cost(s * (2 * row_bytes + _WIDE * v), 2.0 * s * v)
    after = select + row_gradient + write

    def dense(states: int) -> Cost:
        """The table's own gradient: that, the table and so many states of its size."""
        moved = 2 * shape.table_bytes + 2 * (1 + states) * shape.slots * v * _WIDE
        return forward + Cost(moved + 2 * reads * v * _WIDE, 2.0 * reads * v + shape.slots * v)

    return {
        "lookup": lookup,
        "read": read,
        "smf": forward + after,
        "forward and back to the read": forward,
        "after the forward": after,
        "count and select": select,
        "row gradient": row_gradient,
        "update and write": write,
        "dense gradient, masked": dense(states=0),
        "dense gradient, Adam": dense(states=2),
    }
