"""The weighted read ``y = Σ w · V[slot]`` and its gradients, never holding the gathered rows.

Written plainly, a read gathers ``(t, r, v)`` rows and sums them: at 4,096 tokens, 128 reads and a
width of 1,024 that is 2 GiB of float32 for 16 MiB of result. Here every backend walks over pieces
small enough to stay in cache, forwards and backwards.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, DTypeLike, Float, Int

from smf_jax.mesh import MEMORY, joined_parts, summed_parts, to_parts
from smf_jax.shapes import Table
from smf_jax.split_tables import SplitTable, own_places
from smf_jax.tables import AnyTable, located

# Gathered rows that one piece may hold: of a TPU they stay in its vector memory, where nothing is
# fused with a gather; elsewhere XLA fuses gather, product and sum, and pieces would only cost
# launches.
PIECE_BYTES = 16 * 2**20
FUSED_PIECE_BYTES = 4 * 2**30
# Gathers of a CPU that wait for memory together.
READS_AT_ONCE = 8


def read(
    values: AnyTable, slots: Int[Array, "t r"], weights: Float[Array, "t r"]
) -> Float[Array, "t v"]:
    """Weighted sum of table rows per token: ``y[t] = Σ_r weights[t, r] · values[slots[t, r]]``.

    Heads are summed, nothing is renormalised (Memory+ 2412.09764); a slot chosen by two heads
    simply adds. The sum is accumulated in float32 (float64 for float64 tables).

    The table's gradient is computed only where the table is differentiated: a finetuning step
    that differentiates the reads instead (`smf_jax.training.sparse_step`) never creates it.
    ``slots`` are int32 in ``[0, N)`` and not checked. In the dtype of ``weights``.
    """
    table, places = located(values, slots)
    if isinstance(table, SplitTable):
        return _read_split(table, places, weights)
    return _read(table, places, weights)


def read_rows(
    values: AnyTable, slots: Int[Array, "t r"], weights: Float[Array, "t r"]
) -> Float[Array, "t r v"]:
    """The rows themselves, each times its weight and none summed: ``weights[t, r] · values[slot]``.

    ``slots`` are int32 in ``[0, N)`` and not checked. In the dtype of ``weights``.
    """
    table, places = located(values, slots)
    if isinstance(table, SplitTable):
        raise ValueError(
            "join='concat' reads rows as they stand, and devices along memory share this table; "
            "give join='sum', or a mesh without memory"
        )
    return jnp.expand_dims(weights, 2) * _rows(table, places).astype(weights.dtype)


def _read_split(table: SplitTable, slots: Array, weights: Array) -> Array:
    """The read of a table that devices share: what they have read travels, and no row of it."""
    given = to_parts(MEMORY, weights)
    if table.layout == "columns":
        return joined_parts(MEMORY, _read(table.part, slots, given))
    # Rows of other devices are read as any with a weight of zero, and add nothing.
    places, own = own_places(table, slots)
    mine = jnp.where(own, given, 0).astype(_sum_dtype(table.dtype))
    return summed_parts(MEMORY, _read(table.part, places, mine)).astype(weights.dtype)


@jax.custom_vjp
def _read(values: Table, slots: Array, weights: Array) -> Array:
    fused = partial(_read_by_tokens, fused=True)
    forms = {"cpu": _read_by_reads, "tpu": _read_by_tokens, "default": fused}
    return lax.platform_dependent(values, slots, weights, **forms)


def table_gradient(
    cotangent: Float[Array, "t v"],
    slots: Int[Array, "t r"],
    weights: Float[Array, "t r"],
    table_slots: int,
) -> Table:
    """Gradient of the whole table, by segment-sum: ``dV[i] = Σ_{slot = i} w · g``.

    ``g`` is the gradient of the loss with respect to the read. In float32 (or float64); rows that
    no read touched are exactly zero.
    """
    dtype = _sum_dtype(cotangent.dtype)

    def at_once(cotangent: Array, slots: Array, weights: Array) -> Table:
        products = (weights[:, :, None] * cotangent[:, None, :]).reshape(-1, cotangent.shape[1])
        return jax.ops.segment_sum(products, slots.reshape(-1), table_slots)

    def by_reads(cotangent: Array, slots: Array, weights: Array) -> Table:
        def add(total: Table, pair: tuple[Array, Array]) -> tuple[Table, None]:
            slot, weight = pair
            return total.at[slot].add(weight[:, None] * cotangent), None

        start = jnp.zeros((table_slots, cotangent.shape[1]), dtype)
        return lax.scan(add, start, (slots.T, weights.T))[0]

    # The same sum, a read at a time, spares the (t·r, v) products where they are not fused.
    forms = {"cpu": by_reads, "tpu": by_reads, "default": at_once}
    return lax.platform_dependent(cotangent.astype(dtype), slots, weights.astype(dtype), **forms)


def row_products(
    values: Table, slots: Int[Array, "t r"], vectors: Float[Array, "t v"]
) -> Float[Array, "t r"]:
    """``p[t, r] = values[slots[t, r]] · vectors[t]``: the transpose of a read, as its gradient is.

    ``slots`` are int32 in ``[0, N)`` and not checked. Float32 at least.
    """
    fused = partial(_products_by_tokens, fused=True)
    forms = {"cpu": _products_by_reads, "tpu": _products_by_tokens, "default": fused}
    return lax.platform_dependent(values, slots, vectors, **forms)


def _sum_dtype(dtype: DTypeLike) -> DTypeLike:
    return jnp.promote_types(jnp.float32, dtype)


def _rows(values: Table, slots: Int[Array, ...]) -> Array:
    # asarray: a NumPy table that a trace closed over has no .at
    return jnp.asarray(values).at[slots].get(mode="promise_in_bounds")


def _read_by_reads(values: Table, slots: Array, weights: Array) -> Array:
    """One ``(t, v)`` gather per read: three times faster on a CPU than gathering all at once."""
    dtype = _sum_dtype(values.dtype)

    def one(slot: Array, weight: Array) -> Array:
        return weight[:, None].astype(dtype) * _rows(values, slot).astype(dtype)

    def add(total: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        return total + one(*pair), None

    slots, weights_by_read = slots.T, weights.T
    first = one(slots[0], weights_by_read[0])
    total, _ = lax.scan(add, first, (slots[1:], weights_by_read[1:]), unroll=READS_AT_ONCE)
    return total.astype(weights.dtype)


def _read_by_tokens(values: Table, slots: Array, weights: Array, fused: bool = False) -> Array:
    """Pieces of tokens, each gathered, weighted and summed at once."""
    dtype = _sum_dtype(values.dtype)

    def piece(slots: Array, weights: Array) -> Array:
        return jnp.sum(weights[:, :, None].astype(dtype) * _rows(values, slots), axis=1)

    return _over_tokens(piece, values, slots, weights, fused).astype(weights.dtype)


def _products_by_reads(values: Table, slots: Array, vectors: Array) -> Array:
    dtype = _sum_dtype(values.dtype)

    def one(_: None, slot: Array) -> tuple[None, Array]:
        return None, jnp.sum(vectors.astype(dtype) * _rows(values, slot).astype(dtype), axis=1)

    return lax.scan(one, None, slots.T)[1].T


def _products_by_tokens(values: Table, slots: Array, vectors: Array, fused: bool = False) -> Array:
    dtype = _sum_dtype(values.dtype)

    def piece(slots: Array, vectors: Array) -> Array:
        return jnp.sum(vectors[:, None, :].astype(dtype) * _rows(values, slots), axis=2)

    return _over_tokens(piece, values, slots, vectors, fused)


def _over_tokens(
    piece: Callable[..., Array], values: Table, slots: Array, other: Array, fused: bool
) -> Array:
    """Applies ``piece`` to runs of tokens whose gathered rows are within bounds."""
    tokens, reads = slots.shape
    limit = FUSED_PIECE_BYTES if fused else PIECE_BYTES
    size = max(1, limit // (reads * values.shape[1] * 4))
    if size >= tokens:
        return piece(slots, other)
    padding = -tokens % size

    def split(array: Array) -> Array:
        return jnp.pad(array, ((0, padding), (0, 0))).reshape(-1, size, array.shape[1])

    out = lax.map(lambda pair: piece(*pair), (split(slots), split(other)))
    return out.reshape(-1, out.shape[-1])[:tokens]


def residual_of(table: Any, slots: Any, other: Any) -> tuple[Any, ...]:
    """What the backward pass of a rule with symbolic zeros needs: its three inputs' values.

    The structure, not a value, of a fourth part carries whether the table is differentiated: it is
    ``None`` where that is not so.
    """
    return table.value, slots.value, other.value, () if table.perturbed else None


def _read_forward(values: Any, slots: Any, weights: Any) -> tuple[Array, tuple[Any, ...]]:
    residual = residual_of(values, slots, weights)
    return _read(*residual[:3]), residual


def _read_backward(residual: tuple[Any, ...], cotangent: Any) -> tuple[Any, None, Any]:
    values, slots, weights, differentiated = residual
    if isinstance(cotangent, SymbolicZero):
        return None, None, None
    weight_gradient = row_products(values, slots, cotangent).astype(weights.dtype)
    of_values = None
    if differentiated is not None:
        of_values = table_gradient(cotangent, slots, weights, values.shape[0]).astype(values.dtype)
    return of_values, None, weight_gradient


_read.defvjp(_read_forward, _read_backward, symbolic_zeros=True)
