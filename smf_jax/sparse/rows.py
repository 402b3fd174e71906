"""Rows of a table: their gradient without the table's, their gathering and their writing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from smf_jax.shapes import Rows, SlotIds, Table

# Above this many scalars the (s, t) matrix of weights costs more than scattering rows.
MATRIX_SCALARS = 2**24


class ReadTrace(NamedTuple):
    """One weighted read of a table and the loss's gradient with respect to it.

    Attributes:
      slots: ``(t, r)`` int32.
      weights: ``(t, r)``.
      cotangent: ``(t, v)``, gradient of the loss with respect to the read.
    """

    slots: Int[Array, "t r"]
    weights: Float[Array, "t r"]
    cotangent: Float[Array, "t v"]


def row_gradient(
    reads: Sequence[ReadTrace],
    selected: SlotIds,
    table_slots: int,
    form: Literal["matrix", "scatter"] | None = None,
) -> Rows:
    """Gradient of the selected rows: ``dV[i] = Σ_{reads with slot = i} w · g`` (2510.15103).

    No array of ``N`` rows exists. Two forms: ``matrix`` scatters the scalar weights into an
    ``(s, t)`` matrix and multiplies it by ``g``; ``scatter`` adds ``w · g`` into ``(s, v)`` rows,
    one read of all tokens at a time, and is taken where that matrix would be large.

    Args:
      reads: the reads of every layer of the pool.
      selected: ``(s,)`` slot ids; unused places hold ``N``.
      table_slots: ``N``.
      form: which form; by size if not given.

    Returns:
      ``(s, v)`` in float32 (float64 for float64 reads); zero at unused places.
    """
    size = selected.shape[0]
    # Place of every slot among the selected: one int32 vector of N, the only thing of that size.
    place_of_slot = jnp.full(table_slots, size, jnp.int32)
    place_of_slot = place_of_slot.at[selected].set(
        jnp.arange(size, dtype=jnp.int32), mode="drop", unique_indices=False
    )
    total = None
    for trace in reads:
        tokens, _ = trace.slots.shape
        places = place_of_slot.at[trace.slots].get(mode="promise_in_bounds")
        chosen = form or ("matrix" if size * tokens <= MATRIX_SCALARS else "scatter")
        rows = (_by_matrix if chosen == "matrix" else _by_scatter)(trace, places, size)
        total = rows if total is None else total + rows
    if total is None:
        raise ValueError("reads is empty: give the reads of at least one layer of the pool")
    return total


def _by_matrix(trace: ReadTrace, places: Int[Array, "t r"], size: int) -> Rows:
    dtype = jnp.promote_types(jnp.float32, trace.cotangent.dtype)
    tokens = jnp.arange(places.shape[0])[:, None]
    matrix = jnp.zeros((size, places.shape[0]), dtype)
    matrix = matrix.at[places, tokens].add(trace.weights.astype(dtype), mode="drop")
    return jnp.matmul(matrix, trace.cotangent.astype(dtype), precision=jax.lax.Precision.HIGHEST)


def _by_scatter(trace: ReadTrace, places: Int[Array, "t r"], size: int) -> Rows:
    dtype = jnp.promote_types(jnp.float32, trace.cotangent.dtype)
    cotangent = trace.cotangent.astype(dtype)

    def add(rows: Rows, read: tuple[Array, Array]) -> tuple[Rows, None]:
        place, weight = read
        return rows.at[place].add(weight[:, None] * cotangent, mode="drop"), None

    start = jnp.zeros((size, cotangent.shape[1]), dtype)
    rows, _ = jax.lax.scan(add, start, (places.T, trace.weights.astype(dtype).T))
    return rows


def gather_rows(values: Table, slots: SlotIds) -> Rows:
    """The rows of ``slots``, ``(s, v)``; zeros at unused places."""
    return values.at[slots].get(mode="fill", fill_value=0)


def write_rows(values: Table, slots: SlotIds, rows: Rows) -> Table:
    """Writes ``rows`` at ``slots``; unused places (id ``N``) are dropped, other rows keep bits."""
    return values.at[slots].set(rows.astype(values.dtype), mode="drop")


def where_rows(rows: Bool[Array, " s"], true: Array, false: Array) -> Array:
    """``true`` at the marked rows, ``false`` at the others, for any number of trailing axes."""
    return jnp.where(jnp.expand_dims(rows, tuple(range(1, true.ndim))), true, false)
