"""Bytes and operations that the algorithm needs, counted from shapes: the floor under a time.

Bytes are what has to pass between memory and processor at least: operands and results once, every
read its row unless the table has fewer. What a program keeps in between is not counted. Operations
are two per multiply and add; comparisons of a top-k are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from benchmarks.machine import Rates
from smf_jax.memory.config import MemoryConfig

_INDEX = 4  # bytes of a slot id or a count
_WIDE = 4  # bytes of a score, a gradient, a row that is being updated


class Cost(NamedTuple):
    """What one call needs: bytes to be moved, operations of floating-point arithmetic."""

    bytes: float
    operations: float

    def __add__(self, other: Cost) -> Cost:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Cost(self.bytes + other.bytes, self.operations + other.operations)

    def floor_seconds(self, rates: Rates) -> float:
        """The time below which no program on this machine can come."""
        return max(self.bytes / rates.copy_bytes, self.operations / rates.operations)


@dataclass(frozen=True)
class BlockShape:
    """The shape of one memory block and of what it is given: ``t``, ``d``, rows a step may change.

    What the block computes and its table may have dtypes of their own.
    """

    memory: MemoryConfig
    tokens: int = 512
    width: int = 256
    budget: int = 512
    dtype: str = "float32"
    table_dtype: str = "float32"

    @property
    def slots(self) -> int:
        """``N``."""
        return self.memory.slots

    @property
    def reads(self) -> int:
        """Reads of all tokens together."""
        return self.tokens * self.memory.reads_per_token

    @property
    def row_bytes(self) -> int:
        """Of the table."""
        return self.memory.value_width * jnp.dtype(self.table_dtype).itemsize

    @property
    def table_bytes(self) -> int:
        """Bytes of the table."""
        return self.slots * self.row_bytes

    @property
    def selected(self) -> int:
        """Rows that a step writes at most."""
        return min(self.budget, self.slots, self.reads)

    @property
    def setting(self) -> dict[str, int]:
        """What tells measurements of this block from those of others."""
        return {"table_slots": self.slots, "tokens": self.tokens}


def lookup_cost(shape: BlockShape) -> Cost:
    """From queries to slots and scores: all keys against all queries."""
    memory, t = shape.memory, shape.tokens
    passed = memory.heads * memory.key_width * (memory.keys_per_half + t)
    # kd/2 multiply-adds a score.
    operations = t * memory.heads * 2 * memory.keys_per_half * memory.key_width
    return Cost(_WIDE * passed + shape.reads * (_INDEX + _WIDE), operations)


def read_cost(shape: BlockShape) -> Cost:
    """The weighted read, or the gradient of its weights: rows, ids and weights, and the result."""
    v, narrow = shape.memory.value_width, jnp.dtype(shape.dtype).itemsize
    others = shape.reads * (_INDEX + narrow) + shape.tokens * v * narrow
    return Cost(min(shape.reads, shape.slots) * shape.row_bytes + others, 2.0 * shape.reads * v)


def select_cost(shape: BlockShape) -> Cost:
    """Counting the reads and ranking those that were made: the ids, and two sets of statistics."""
    return Cost(4 * shape.reads * _INDEX, 4.0 * shape.reads)


def row_gradient_cost(shape: BlockShape) -> Cost:
    """The selected rows' gradient: by reads, or as one matrix product where that is less."""
    t, v, s = shape.tokens, shape.memory.value_width, shape.selected
    moved = shape.reads * (_INDEX + _WIDE) + _WIDE * (t * v + s * v)
    return Cost(moved, 2.0 * min(s * t, shape.reads) * v)


def write_cost(shape: BlockShape) -> Cost:
    """The selected rows: their gradient read, the rows read and written."""
    v = shape.memory.value_width
    return Cost(shape.selected * (2 * shape.row_bytes + _WIDE * v), 2.0 * shape.selected * v)


def after_cost(shape: BlockShape) -> Cost:
    """Everything of a step that comes after the forward and backward pass."""
    return select_cost(shape) + row_gradient_cost(shape) + write_cost(shape)


def forward_cost(shape: BlockShape) -> Cost:
    """Query, lookup, read and gate, and the gradient back to the read."""
    memory, t, d = shape.memory, shape.tokens, shape.width
    weights = d * memory.heads * memory.key_width
    operations = 2.0 * t * weights
    if memory.gate == "silu":
        weights += 2 * d * memory.value_width
        operations += 2.0 * t * d * memory.value_width * 3  # gate, output, and back through output
    moved = jnp.dtype(shape.dtype).itemsize * (weights + 3 * t * d)
    return Cost(moved, operations) + lookup_cost(shape) + read_cost(shape)


def step_cost(shape: BlockShape) -> Cost:
    """One step of sparse memory finetuning of the block alone."""
    return forward_cost(shape) + after_cost(shape)


def dense_step_cost(shape: BlockShape, states: int) -> Cost:
    """A step with the table's own gradient: that, the table and so many states of its size."""
    numbers, of_reads = (count * shape.memory.value_width for count in (shape.slots, shape.reads))
    moved = 2 * shape.table_bytes + 2 * (1 + states) * numbers * _WIDE + 2 * of_reads * _WIDE
    return forward_cost(shape) + Cost(moved, 2.0 * of_reads + numbers)
