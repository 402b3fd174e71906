"""Rows of a table: their gradient or its norm without the table's, gathering and writing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped

from smf_jax import split_tables
from smf_jax.shapes import Rows, SlotIds, TokenMask
from smf_jax.sparse.accesses import Accesses, Form, check_reads, counted_ids, form_for, run_lengths
from smf_jax.split_tables import SplitTable
from smf_jax.tables import ImplicitTable, gather, scatter

GradientForm = Literal["matrix", "scatter"]

# On a CPU the matrix form does s operations where the other does r, each so many times faster.
# Measured with 512 tokens of 128 reads: 0.8, 1.9, 16 ms (matrix) and 3.1, 2.6, 4.4 ms (scatter)
# for 64, 512 and 4,096 rows.
MATRIX_SPEED = 5
# On accelerators scattered additions are slow; there only its size speaks against the matrix.
MATRIX_SCALARS = 2**24
# Reads whose products w·g are held at a time.
CHUNK = 1024


class ReadTrace(NamedTuple):
    """One weighted read of a table, and the gradient of the loss with respect to what was read."""

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

    No array of ``N`` rows exists. Two forms, chosen by size: ``matrix`` sums the scalar weights
    into an ``(s, t)`` matrix and multiplies it by ``g``; ``scatter`` adds ``w · g`` into ``(s, v)``
    rows, one read of all tokens at a time, and is taken where many rows are selected. In float32
    (float64 for float64 reads); zero at unused places, whose id is ``N``.
    """
    check_reads(reads)
    return reduce(jnp.add, [_rows_of_trace(read, selected, table_slots, form) for read in reads])


def _rows_of_trace(
    trace: ReadTrace, selected: SlotIds, table_slots: int, form: GradientForm | None
) -> Rows:
    dtype = jnp.promote_types(jnp.float32, trace.cotangent.dtype)
    trace = ReadTrace(trace.slots, trace.weights.astype(dtype), trace.cotangent.astype(dtype))
    size, (tokens, reads) = selected.shape[0], trace.slots.shape

    def on_cpu(trace: ReadTrace, selected: SlotIds) -> Rows:
        places = places_among(selected, trace.slots, table_slots)
        if (form or ("matrix" if size <= MATRIX_SPEED * reads else "scatter")) == "scatter":
            return _by_scatter(trace, places, size)
        matrix, token = jnp.zeros((size, tokens), dtype), jnp.arange(tokens)[:, None]
        return _product(matrix.at[places, token].add(trace.weights, mode="drop"), trace)

    def elsewhere(trace: ReadTrace, selected: SlotIds) -> Rows:
        if (form or ("matrix" if size * tokens <= MATRIX_SCALARS else "scatter")) == "scatter":
            return _by_scatter(trace, places_among(selected, trace.slots, table_slots), size)
        return _product(_compared_matrix(trace, selected), trace)

    return lax.platform_dependent(trace, selected, cpu=on_cpu, default=elsewhere)


def places_among(
    selected: SlotIds, slots: Int[Array, "t r"], table_slots: int, form: Form | None = None
) -> Int[Array, "t r"]:
    """Where each slot in ``[0, N)`` stands among the selected, distinct ones; ``s`` if it does not.

    Found by an int32 vector of ``N``, or by search among the sorted selected slots without one;
    the cheaper by size if no form is given.
    """
    size = selected.shape[0]
    if (form or form_for(slots.size, table_slots)) == "vector":
        places, absent = jnp.arange(size, dtype=jnp.int32), jnp.full(table_slots, size, jnp.int32)
        place_of_slot = absent.at[selected].set(places, mode="drop")
        return place_of_slot.at[slots].get(mode="promise_in_bounds")
    order = jnp.argsort(selected)
    in_order = selected[order]
    found = jnp.minimum(jnp.searchsorted(in_order, slots, method="scan_unrolled"), size - 1)
    return jnp.where(in_order[found] == slots, order[found], size).astype(jnp.int32)


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


def count_with_norms(
    reads: Sequence[ReadTrace], valid: TokenMask, table_slots: int, chunk: int = CHUNK
) -> Accesses:
    """Accesses of a pool, each slot with the norm of its row's gradient to be scored.

    Reads are sorted by slot and walked over in chunks, so that no more than a chunk of rows is
    ever held: the rows of a slot are summed, and only their norm ``‖dV[slot]‖`` is kept.
    """
    check_reads(reads)
    ids = jnp.concatenate([counted_ids(read.slots, valid, table_slots) for read in reads])
    cotangents = jnp.concatenate([read.cotangent for read in reads]).astype(jnp.float32)
    tokens, offset = [], 0
    for read in reads:
        count, per_token = read.slots.shape
        tokens.append(jnp.repeat(offset + jnp.arange(count, dtype=jnp.int32), per_token))
        offset += count
    weights = jnp.concatenate([read.weights.reshape(-1) for read in reads]).astype(jnp.float32)
    order = jnp.argsort(ids)
    in_order = ids[order]
    counts = run_lengths(in_order, table_slots)
    weights = jnp.where(in_order < table_slots, weights[order], 0)
    norms = _norms(counts > 0, jnp.concatenate(tokens)[order], weights, cotangents, chunk)
    return Accesses(in_order, counts, norms, jnp.sum(counts), table_slots)


def _norms(
    is_last: Bool[Array, " m"],
    tokens: Int[Array, " m"],
    weights: Float[Array, " m"],
    cotangents: Float[Array, "t v"],
    chunk: int,
) -> Float[Array, " m"]:
    """At the last read of each run the norm of the run's sum of ``w · g``, 0 elsewhere."""
    length = is_last.shape[0]

    def split(array: Array) -> Array:
        return jnp.pad(array, (0, -length % chunk)).reshape(-1, chunk)

    def one(unfinished: Array, reads: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        ends, token, weight = reads
        run = jnp.cumsum(ends, dtype=jnp.int32) - ends
        products = weight[:, None] * cotangents[token]
        sums = jax.ops.segment_sum(products, run, chunk, indices_are_sorted=True)
        sums = sums.at[0].add(unfinished)
        norms = jnp.sqrt(jnp.sum(jnp.square(sums), axis=1))
        return jnp.where(ends[-1], 0, sums[run[-1]]), jnp.where(ends, norms[run], 0)

    start = jnp.zeros(cotangents.shape[1], cotangents.dtype)
    _, norms = lax.scan(one, start, (split(is_last), split(tokens), split(weights)))
    return norms.reshape(-1)[:length]


def merge_rows(slots: SlotIds, rows: Rows, table_slots: int) -> tuple[SlotIds, Rows]:
    """Sums the rows of equal slots: distinct ids ``(s,)``, ascending, then ``N``; and the sums."""
    order = jnp.argsort(slots)
    in_order = slots[order]
    is_first = jnp.concatenate([jnp.ones(1, bool), in_order[1:] != in_order[:-1]])
    place = jnp.cumsum(is_first) - 1
    unused = jnp.full(slots.shape, table_slots, slots.dtype)
    sums = jnp.zeros(rows.shape, rows.dtype).at[place].add(rows[order])
    return unused.at[place].set(in_order), sums


def gather_rows(
    values: Shaped[Array, "N *rest"] | ImplicitTable | SplitTable, slots: SlotIds
) -> Shaped[Array, "s *rest"]:
    """The rows of ``slots``, ``(s, …)``; zeros at unused places."""
    if isinstance(values, ImplicitTable):
        return gather(values, slots)
    if isinstance(values, SplitTable):
        return split_tables.gather(values, slots)
    return values.at[slots].get(mode="fill", fill_value=0)


def write_rows(
    values: Shaped[Array, "N *rest"] | ImplicitTable | SplitTable,
    slots: SlotIds,
    rows: Shaped[Array, "s *rest"],
) -> Shaped[Array, "N *rest"] | ImplicitTable | SplitTable:
    """Writes ``rows`` at ``slots``; unused places (id ``N``) are dropped, other rows keep bits."""
    if isinstance(values, ImplicitTable):
        return scatter(values, slots, rows)
    if isinstance(values, SplitTable):
        return split_tables.scatter(values, slots, rows)
    return values.at[slots].set(rows.astype(values.dtype), mode="drop")


def where_rows(rows: Bool[Array, " s"], true: Array, false: Array | float) -> Array:
    """``true`` at the marked rows, ``false`` at the others, for any number of trailing axes."""
    return jnp.where(jnp.expand_dims(rows, tuple(range(1, true.ndim))), true, false)
