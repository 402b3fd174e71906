"""One memory block alone: its inputs, its step of sparse memory finetuning, and the parts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from benchmarks.costs import BlockShape
from smf_jax.memory.layer import PERTURBATIONS, READS, MemoryLayer
from smf_jax.shapes import Rows, SlotIds, Table
from smf_jax.sparse import accesses
from smf_jax.sparse.row_optimizer import RowStore, create_store, update_rows
from smf_jax.sparse.rows import ReadTrace, row_gradient
from smf_jax.sparse.selection import budget_size, select_slots
from smf_jax.sparse.usage import PoolUsage

# So many different inputs are taken in turn.
INPUT_SETS = 4
LEARNING_RATE = 0.1
_SETS = range(INPUT_SETS)
_PATTERN_ROWS = 4096
_BATCHES = 50  # of the made-up background


@dataclass(frozen=True)
class Block:
    """A memory block without its table, and what it is given.

    Attributes:
      shape: of everything.
      layer: the block.
      params: its parameters, frozen.
      usage: a made-up background.
      inputs: pairs of the block's input ``(1, t, d)`` and the cotangent of its output, likewise.
    """

    shape: BlockShape
    layer: MemoryLayer
    params: dict[str, Any]
    usage: PoolUsage
    inputs: tuple[tuple[Array, Array], ...]

    def arguments(self) -> list[tuple[Any, ...]]:
        """What a step is given beside its state, for every input."""
        return [(self.params, self.usage, x, upstream) for x, upstream in self.inputs]

    def store(self, table: Table) -> RowStore | None:
        """Of plain SGD: masters where the table is narrow. The inputs select no more rows."""
        return create_store(optax.sgd(LEARNING_RATE), table, INPUT_SETS * static_size(self.shape))


def make_block(shape: BlockShape, seed: int = 0) -> Block:
    """A block with random parameters and inputs.

    Drawn by NumPy: every program that is compiled on the way would count among the peak memory.
    """
    rng = np.random.default_rng(seed)
    layer = MemoryLayer(shape.memory, shape.width, dtype=jnp.dtype(shape.dtype))

    def draw(leaf: jax.ShapeDtypeStruct, scale: float) -> Array:
        return jnp.asarray(scale * rng.standard_normal(leaf.shape, np.float32), leaf.dtype)

    def fresh(path: Any, leaf: jax.ShapeDtypeStruct) -> Array:
        is_keys = "keys" in jax.tree_util.keystr(path)
        return draw(leaf, leaf.shape[-1 if is_keys else 0] ** -0.5)

    params = jax.tree_util.tree_map_with_path(fresh, abstract_params(shape, layer))
    df = jnp.asarray(rng.integers(0, _BATCHES, shape.slots), jnp.int32)
    usage = PoolUsage(df, df, jnp.asarray(_BATCHES, jnp.int32))
    x = jax.ShapeDtypeStruct((1, shape.tokens, shape.width), layer.dtype)
    return Block(shape, layer, params, usage, tuple((draw(x, 1), draw(x, 1)) for _ in _SETS))


def abstract_params(shape: BlockShape, layer: MemoryLayer) -> dict[str, Any]:
    """Shapes of a block's parameters."""
    x = jax.ShapeDtypeStruct((1, 1, shape.width), layer.dtype)
    table = jax.ShapeDtypeStruct((shape.slots, shape.memory.value_width), shape.table_dtype)
    return dict(jax.eval_shape(layer.init, jax.random.key(0), x, table)["params"])


def random_table(slots: int, width: int, dtype: str, seed: int = 0) -> Table:
    """A table of distinct rows as large as fresh ones, made without a temporary of its size.

    It is there when this returns: one that is still being made would not count as memory in use.
    """
    rows = min(slots, _PATTERN_ROWS)
    pattern = np.random.default_rng(seed).standard_normal((rows, width), np.float32)
    return jax.block_until_ready(_grow(jnp.asarray(width**-0.5 * pattern), slots, dtype))


@partial(jax.jit, static_argnames=("slots", "dtype"))
def _grow(pattern: Array, slots: int, dtype: str) -> Table:
    place = jnp.arange(slots)
    scale = 0.5 + place / slots
    return (pattern[place % pattern.shape[0]] * scale[:, None]).astype(dtype)


def static_size(shape: BlockShape) -> int:
    """Places for selected rows in a step of this budget."""
    return min(budget_size(shape.budget), shape.slots)


def read_trace(
    layer: MemoryLayer, params: dict[str, Any], table: Table, x: Array, upstream: Array
) -> ReadTrace:
    """Forward through the block, and back from its output to its read, as in a finetuning step."""
    zeros = jnp.zeros((*x.shape[:2], table.shape[1]), layer.dtype)

    def output(perturbation: Array) -> tuple[Array, Any]:
        variables = {"params": params, PERTURBATIONS: {"read": perturbation}}
        out, collections = layer.apply(variables, x, table, mutable=[READS])
        return out, collections[READS]["read"]

    _, back, read = jax.vjp(output, zeros, has_aux=True)
    (cotangent,) = back(upstream)
    tokens = x.shape[0] * x.shape[1]
    slots, weights = read.slots.reshape(tokens, -1), read.weights.reshape(tokens, -1)
    return ReadTrace(slots, weights, cotangent.reshape(tokens, -1))


@contextmanager
def forced(form: accesses.Form) -> Iterator[None]:
    """Whatever is traced in here counts in this form, whatever the sizes are."""
    by_size = accesses.sorted_from
    accesses.sorted_from = lambda: 0 if form == "sorted" else math.inf
    try:
        yield
    finally:
        accesses.sorted_from = by_size


def select(shape: BlockShape, trace: ReadTrace, usage: PoolUsage) -> SlotIds:
    """Counts the reads and selects the best slots."""
    valid = jnp.ones(trace.slots.shape[0], bool)
    counted = accesses.count_reads([trace.slots], valid, shape.slots)
    return select_slots(
        counted, usage, rule="tfidf", top_t=jnp.asarray(shape.budget), size=static_size(shape)
    )


def gradient_of_rows(shape: BlockShape, trace: ReadTrace, selected: SlotIds) -> Rows:
    """The selected rows' gradient."""
    return row_gradient([trace], selected, shape.slots)


def write(
    state: tuple[Table, RowStore | None], selected: SlotIds, rows: Rows
) -> tuple[Table, RowStore | None]:
    """Plain SGD on the selected rows, and their writing."""
    return update_rows(*state, selected, rows, optax.sgd(LEARNING_RATE))


def after(
    shape: BlockShape, state: tuple[Table, RowStore | None], usage: PoolUsage, trace: ReadTrace
) -> tuple[Table, RowStore | None]:
    """All of a step that comes after the forward and backward pass."""
    selected = select(shape, trace, usage)
    return write(state, selected, gradient_of_rows(shape, trace, selected))


def step(
    shape: BlockShape,
    layer: MemoryLayer,
    state: tuple[Table, RowStore | None],
    params: dict[str, Any],
    usage: PoolUsage,
    x: Float[Array, "b t d"],
    upstream: Float[Array, "b t d"],
) -> tuple[Table, RowStore | None]:
    """One step of sparse memory finetuning of the block alone."""
    return after(shape, state, usage, read_trace(layer, params, state[0], x, upstream))


def traces(block: Block, table: Table) -> Sequence[ReadTrace]:
    """The reads of every input, recorded."""
    run = jax.jit(partial(read_trace, block.layer))
    return [run(block.params, table, x, upstream) for x, upstream in block.inputs]
