"""Norms of the gradients of all rows that a batch read, for the rule ``gradient``."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from smf_jax.shapes import TokenMask
from smf_jax.sparse.accesses import Accesses, counted_ids, run_lengths
from smf_jax.sparse.rows import ReadTrace

# Reads whose products w·g are held at a time.
CHUNK = 1024


def count_with_norms(
    reads: Sequence[ReadTrace], valid: TokenMask, table_slots: int, chunk: int = CHUNK
) -> Accesses:
    """Accesses of a pool, each slot with the norm of its row's gradient to be scored.

    Reads are sorted by slot and walked over in chunks, so that no more than a chunk of rows is
    ever held: the rows of a slot are summed, and only their norm is kept.

    Args:
      reads: the reads of every layer of the pool.
      valid: ``(t,)`` bool, false on pads.
      table_slots: ``N``.
      chunk: reads of one chunk.

    Returns:
      The sorted form of `Accesses`, its amounts ``‖dV[slot]‖``.
    """
    if not reads:
        raise ValueError("reads is empty: give the reads of at least one layer of the pool")
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
