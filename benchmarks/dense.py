"""The dense ways to train the block's table: its whole gradient, then a mask, or Adam."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from benchmarks.block import LEARNING_RATE, select
from benchmarks.costs import BlockShape
from smf_jax.memory.layer import READS, MemoryLayer
from smf_jax.shapes import Table
from smf_jax.sparse.rows import ReadTrace
from smf_jax.sparse.transform import freeze_all_but_rows
from smf_jax.sparse.usage import PoolUsage

_TABLE = "table"
ADAM = optax.adam(5e-4)


@cache
def _mask() -> optax.GradientTransformationExtraArgs:
    """Masked as the block's own step is ruled: plain SGD."""
    return freeze_all_but_rows(optax.sgd(LEARNING_RATE), [_TABLE])


def start_masked(table: Table) -> tuple[Table, Any]:
    """The table and the transform's state."""
    return table, _mask().init({_TABLE: table})


def start_adam(table: Table) -> tuple[Table, Any]:
    """The table and two more of its size."""
    return table, ADAM.init(table)


def step_masked(
    shape: BlockShape,
    layer: MemoryLayer,
    state: tuple[Table, Any],
    params: dict[str, Any],
    usage: PoolUsage,
    x: Array,
    upstream: Array,
) -> tuple[Table, Any]:
    """The table's whole gradient, masked to the selected rows by `freeze_all_but_rows`."""
    table, opt_state = state
    gradient, reads = _table_gradient(layer, params, table, x, upstream)
    selected = select(shape, reads, usage)
    updates, opt_state = _mask().update(
        {_TABLE: gradient}, opt_state, {_TABLE: table}, slots={_TABLE: selected}
    )
    new: Any = optax.apply_updates({_TABLE: table}, updates)
    return new[_TABLE], opt_state


def step_adam(
    layer: MemoryLayer,
    state: tuple[Table, Any],
    params: dict[str, Any],
    usage: PoolUsage,
    x: Array,
    upstream: Array,
) -> tuple[Table, Any]:
    """Adam on every row of the table."""
    del usage
    table, opt_state = state
    gradient, _ = _table_gradient(layer, params, table, x, upstream)
    updates, opt_state = ADAM.update(gradient, opt_state, table)
    return optax.apply_updates(table, updates), opt_state  # pyright: ignore[reportReturnType]


def _table_gradient(
    layer: MemoryLayer, params: dict[str, Any], table: Table, x: Array, upstream: Array
) -> tuple[Table, ReadTrace]:
    """The table's gradient, and what was read; its cotangent is not known here."""

    def product(table: Table) -> tuple[Array, Any]:
        out, collections = layer.apply({"params": params}, x, table, mutable=[READS])
        return jnp.sum(out * upstream), collections[READS]["read"]

    gradient, read = jax.grad(product, has_aux=True)(table)
    tokens = x.shape[0] * x.shape[1]
    slots, weights = (array.reshape(tokens, -1) for array in (read.slots, read.weights))
    return gradient, ReadTrace(slots, weights, jnp.zeros((tokens, table.shape[1])))
