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
    """What one call needs.

    Attributes:
      bytes: to be moved.
      operations: of floating-point arithmetic.
    """

    bytes: float
    operations: float

    def __add__(self, other: object) -> Cost:
        if not isinstance(other, Cost):
            return NotImplemented
        return Cost(self.bytes + other.bytes, self.operations + other.operations)

    def floor_seconds(self, rates: Rates) -> float:
        """The time below which no program on this machine can come."""
        return max(self.bytes / rates.copy_bytes, self.operations / rates.operations)


@dataclass(frozen=True)
class BlockShape:
    """The shape of one memory block and of what it is given.

    Attributes:
      memory: shape and choices of the memory.
      tokens: ``t``.
      width: ``d``.
      budget: rows a step may change.
      dtype: of what the block computes.
      table_dtype: of the table.
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
    def table_bytes(self) -> int:
        """Bytes of the table."""
        return self.slots * self.memory.value_width * jnp.dtype(self.table_dtype).itemsize

    @property
    def selected(self) -> int:
        """Rows that a step writes at most."""
        return min(self.budget, self.slots, self.tokens * self.memory.reads_per_token)


def lookup_cost(shape: BlockShape) -> Cost:
    """From queries to slots and scores: all keys against all queries."""
    memory, t = shape.memory, shape.tokens
    scores = t * memory.heads * 2 * memory.keys_per_half
    keys = memory.heads * memory.keys_per_half * memory.key_width
    queries = t * memory.heads * memory.key_width
    winners = t * memory.reads_per_token
    return Cost(
        bytes=_WIDE * (keys + queries) + winners * (_INDEX + _WIDE),
        operations=scores * memory.key_width,  # kd/2 multiply-adds a score
    )


def read_cost(shape: BlockShape) -> Cost:
    """The weighted read: the rows, the ids and weights, the result."""
    memory, t = shape.memory, shape.tokens
    reads, v = t * memory.reads_per_token, memory.value_width
    narrow = jnp.dtype(shape.dtype).itemsize
    row = v * jnp.dtype(shape.table_dtype).itemsize
    return Cost(
        bytes=min(reads, shape.slots) * row + reads * (_INDEX + narrow) + t * v * narrow,
        operations=2.0 * reads * v,
    )


def weight_gradient_cost(shape: BlockShape) -> Cost:
    """The gradient of the read's weights: every row again, against the cotangent of its token."""
    return read_cost(shape)


def select_cost(shape: BlockShape) -> Cost:
    """Counting the reads and ranking those that were made: the ids, and two sets of statistics."""
    reads = shape.tokens * shape.memory.reads_per_token
    return Cost(bytes=4 * reads * _INDEX, operations=4.0 * reads)


def row_gradient_cost(shape: BlockShape) -> Cost:
    """The selected rows' gradient: by reads, or as one matrix product where that is less."""
    t, v, s = shape.tokens, shape.memory.value_width, shape.selected
    reads = t * shape.memory.reads_per_token
    return Cost(
        bytes=reads * (_INDEX + _WIDE) + _WIDE * (t * v + s * v),
        operations=2.0 * min(s * t, reads) * v,
    )


def write_cost(shape: BlockShape) -> Cost:
    """The selected rows: their gradient read, the rows read and written."""
    row = shape.memory.value_width * jnp.dtype(shape.table_dtype).itemsize
    wide = shape.memory.value_width * _WIDE
    return Cost(
        bytes=shape.selected * (2 * row + wide),
        operations=2.0 * shape.selected * shape.memory.value_width,
    )


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
    narrow = jnp.dtype(shape.dtype).itemsize
    projections = Cost(bytes=narrow * (weights + 3 * t * d), operations=operations)
    return projections + lookup_cost(shape) + read_cost(shape)


def step_cost(shape: BlockShape) -> Cost:
    """One step of sparse memory finetuning of the block alone."""
    return forward_cost(shape) + after_cost(shape)


def dense_step_cost(shape: BlockShape, states: int) -> Cost:
    """A step with the table's own gradient: that written and read, the table and its states too.

    Args:
      shape: of the block.
      states: tables of optimizer state, two of Adam.
    """
    forward, numbers = forward_cost(shape), shape.slots * shape.memory.value_width
    reads = shape.tokens * shape.memory.reads_per_token
    moved = 2 * shape.table_bytes + 2 * (1 + states) * numbers * _WIDE
    return Cost(
        bytes=forward.bytes + moved + 2 * reads * shape.memory.value_width * _WIDE,
        operations=forward.operations + 2.0 * reads * shape.memory.value_width + numbers,
    )
