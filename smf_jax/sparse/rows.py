"""Rows of a table: their gradient without the table's, their gathering and their writing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from smf_jax.shapes import Rows, SlotIds, Table
from smf_jax.sparse.accesses import Form, form_for

GradientForm = Literal["matrix", "scatter"]

# On a CPU the matrix form does s operations where the other does r, each so many times faster.
# Measured with 512 tokens of 128 reads: 0.8, 1.9, 16 ms (matrix) and 3.1, 2.6, 4.4 ms (scatter)
# for 64, 512 and 4,096 rows.
MATRIX_SPEED = 5
# On accelerators scattered additions are slow; there only its size speaks against the matrix.
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
    form: GradientForm | None = None,
) -> Rows:
    """Gradient of the selected rows: ``dV[i] = Σ_{reads with slot = i} w · g`` (2510.15103).

    No array of ``N`` rows exists. Two forms: ``matrix`` sums the scalar weights into an ``(s, t)``
    matrix and multiplies it by ``g``; ``scatter`` adds ``w · g`` into ``(s, v)`` rows, one read of
    all tokens at a time, and is taken where many rows are selected.

    Args:
      reads: the reads of every layer of the pool.
      selected: ``(s,)`` distinct slot ids; unused places hold ``N``.
      table_slots: ``N``.
      form: which form; by size if not given.

    Returns:
      ``(s, v)`` in float32 (float64 for float64 reads); zero at unused places.
    """
    if not reads:
        raise ValueError("reads is empty: give the reads of at least one layer of the pool")
    rows = [_rows_of_trace(trace, selected, table_slots, form) for trace in reads]
    return sum(rows[1:], start=rows[0])


def _rows_of_trace(
    trace: ReadTrace, selected: SlotIds, table_slots: int, form: GradientForm | None
) -> Rows:
    dtype = jnp.promote_types(jnp.float32, trace.cotangent.dtype)
    trace = ReadTrace(trace.slots, trace.weights.astype(dtype), trace.cotangent.astype(dtype))
    size, (tokens, reads) = selected.shape[0], trace.slots.shape

    def on_cpu(trace: ReadTrace, selected: SlotIds) -> Rows:
        places = places_among(selected, trace.slots, table_slots)
        if (form or ("matrix" if size <= MATRIX_SPEED * reads else "scatter")) == "matrix":
            return _product(_scattered_matrix(trace, places, size), trace)
        return _by_scatter(trace, places, size)

    def elsewhere(trace: ReadTrace, selected: SlotIds) -> Rows:
        if (form or ("matrix" if size * tokens <= MATRIX_SCALARS else "scatter")) == "matrix":
            return _product(_compared_matrix(trace, selected), trace)
        return _by_scatter(trace, places_among(selected, trace.slots, table_slots), size)

    return lax.platform_dependent(trace, selected, cpu=on_cpu, default=elsewhere)


def places_among(
    selected: SlotIds, slots: Int[Array, "t r"], table_slots: int, form: Form | None = None
) -> Int[Array, "t r"]:
    """Where each slot stands among the selected, ``s`` where it does not.

    Args:
      selected: ``(s,)`` distinct slot ids; unused places hold ``N``.
      slots: ``(t, r)`` in ``[0, N)``.
      table_slots: ``N``.
      form: by an int32 vector of ``N``, or by search among the sorted selected slots without one;
        the cheaper by size if not given.
    """
    size = selected.shape[0]
    if (form or form_for(slots.size, table_slots)) == "vector":
        place_of_slot = jnp.full(table_slots, size, jnp.int32)
        place_of_slot = place_of_slot.at[selected].set(
            jnp.arange(size, dtype=jnp.int32), mode="drop"
        )
        return place_of_slot.at[slots].get(mode="promise_in_bounds")
    order = jnp.argsort(selected)
    in_order = selected[order]
    found = jnp.searchsorted(in_order, slots, method="scan_unrolled")
    found = jnp.minimum(found, size - 1)
    return jnp.where(in_order[found] == slots, order[found], size).astype(jnp.int32)


def _scattered_matrix(trace: ReadTrace, places: Int[Array, "t r"], size: int) -> Array:
    tokens = jnp.arange(places.shape[0])[:, None]
    matrix = jnp.zeros((size, places.shape[0]), trace.weights.dtype)
    return matrix.at[places, tokens].add(trace.weights, mode="drop")


def _compared_matrix(trace: ReadTrace, selected: SlotIds) -> Array:
    # Every pair of a read and a selected slot is compared inside one reduction: nothing of
    # (s, t, r) is held, and the sum has one order, which scattered additions have not.
    same = jnp.expand_dims(selected, (1, 2)) == trace.slots[None]
    return jnp.sum(jnp.where(same, trace.weights[None], 0), axis=2)


def _product(matrix: Float[Array, "s t"], trace: ReadTrace) -> Rows:
    return jnp.matmul(matrix, trace.cotangent, precision=lax.Precision.HIGHEST)


def _by_scatter(trace: ReadTrace, places: Int[Array, "t r"], size: int) -> Rows:
    def add(rows: Rows, read: tuple[Array, Array]) -> tuple[Rows, None]:
        place, weight = read
        return rows.at[place].add(weight[:, None] * trace.cotangent, mode="drop"), None

    start = jnp.zeros((size, trace.cotangent.shape[1]), trace.cotangent.dtype)
    return lax.scan(add, start, (places.T, trace.weights.T))[0]


def merge_rows(slots: SlotIds, rows: Rows, table_slots: int) -> tuple[SlotIds, Rows]:
    """Sums the rows of equal slots: several selections become one of distinct slots.

    Args:
      slots: ``(s,)``, repeated or ``N``.
      rows: ``(s, v)``.
      table_slots: ``N``.

    Returns:
      ``(s,)`` distinct ids in ascending order, then ``N``; and the sums of their rows.
    """
    order = jnp.argsort(slots)
    in_order = slots[order]
    is_first = jnp.concatenate([jnp.ones(1, bool), in_order[1:] != in_order[:-1]])
    place = jnp.cumsum(is_first) - 1
    unused = jnp.full(slots.shape, table_slots, slots.dtype)
    sums = jnp.zeros(rows.shape, rows.dtype).at[place].add(rows[order])
    return unused.at[place].set(in_order), sums


def gather_rows(values: Table, slots: SlotIds) -> Rows:
    """The rows of ``slots``, ``(s, v)``; zeros at unused places."""
    return values.at[slots].get(mode="fill", fill_value=0)


def write_rows(values: Table, slots: SlotIds, rows: Rows) -> Table:
    """Writes ``rows`` at ``slots``; unused places (id ``N``) are dropped, other rows keep bits."""
    return values.at[slots].set(rows.astype(values.dtype), mode="drop")


def where_rows(rows: Bool[Array, " s"], true: Array, false: Array) -> Array:
    """``true`` at the marked rows, ``false`` at the others, for any number of trailing axes."""
    return jnp.where(jnp.expand_dims(rows, tuple(range(1, true.ndim))), true, false)
