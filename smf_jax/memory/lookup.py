"""Three forms of the product-key lookup, exact alike: which is fastest depends on the machine.

Sorting is `lax.top_k` (GPU); comparing sorts too, and indexes nothing (TPU); a CPU has a kernel.
None of them is differentiated: the gradient of scores is spread over those of all keys, and goes on
to queries and keys as products.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Num

from smf_jax.cpu_kernels.best_slots import best_slots
from smf_jax.cpu_kernels.library import is_available

# Scores that one piece may hold. Those of a TPU stay in its vector memory. Of a CPU a program's
# temporaries should stay below the 32 MiB from which glibc maps fresh pages for them at every call.
PIECE_BYTES = 8 * 2**20
GPU_PIECE_BYTES = 256 * 2**20

Queries = Float[Array, "t h 2 c"]
HalfKeys = Float[Array, "h 2 n c"]


class Lookup(NamedTuple):
    """The ``k`` best slots ``first_key · n + second_key`` of every head, and scores, descending."""

    scores: Float[Array, "t h k"]
    slots: Int[Array, "t h k"]


@lru_cache
def candidate_pairs(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions ``(i, j)`` among the two halves' winners that can be among the ``k`` best sums.

    Both lists of winners are sorted, so the pair ``(i, j)`` is preceded by all
    ``(i+1)(j+1) - 1`` pairs ``(i' ≤ i, j' ≤ j)``: none scores less, and each stands earlier in the
    row-major ``k × k`` list, hence wins its ties. A pair with ``(i+1)(j+1) > k`` therefore never
    enters the best ``k`` (unless it is the sum of two infinities that is no number). At ``k = 32``
    that leaves 119 of 1,024 pairs, here in row-major order, int32.
    """
    first, second = np.divmod(np.arange(k * k), k)
    keep = (first + 1) * (second + 1) <= k
    return first[keep].astype(np.int32), second[keep].astype(np.int32)


def look_up_on_cpu(queries: Queries, keys: HalfKeys, k: int) -> Lookup:
    """By the kernel where it could be built."""
    return (look_up_by_kernel if is_available() else look_up_by_sorting)(queries, keys, k)


def _take_by_index(x: Num[Array, "#q m"], places: Int[Array, "#q k"]) -> Num[Array, "q k"]:
    """``x[q, places[q, k]]``; either may have one row for all."""
    if places.shape[0] == 1:
        return x[:, places[0]]
    if x.shape[0] == 1:
        return x[0][places]
    return jnp.take_along_axis(x, places, axis=1)


def look_up_by_sorting(
    queries: Queries, keys: HalfKeys, k: int, take: Callable[..., Array] = _take_by_index
) -> Lookup:
    """`lax.top_k` of each half's scores, then of the pairs."""
    (t, h, _, _), n = queries.shape, keys.shape[2]
    scores = _without_negative_zero(_product("thpc,hpnc->phtn", queries, keys))
    # Two-dimensional operands keep XLA's CPU backend on its top-k kernel; sliced outputs of one
    # higher-dimensional top_k fall back to a full sort.
    first_scores, first_keys = lax.top_k(scores[0].reshape(h * t, n), k)
    second_scores, second_keys = lax.top_k(scores[1].reshape(h * t, n), k)
    rows, columns = (jnp.asarray(side)[None] for side in candidate_pairs(k))
    sums = _without_negative_zero(take(first_scores, rows) + take(second_scores, columns))
    best, winners = lax.top_k(sums, k)
    first, second = take(first_keys, take(rows, winners)), take(second_keys, take(columns, winners))
    found = Lookup(best, first * n + second)
    return Lookup(*(array.reshape(h, t, k).swapaxes(0, 1) for array in found))


def look_up_by_comparing(queries: Queries, keys: HalfKeys, k: int) -> Lookup:
    """By sorting without indexing, which a TPU does a number at a time; in pieces of tokens."""
    find = partial(look_up_by_sorting, keys=keys, k=k, take=_take_by_comparing)
    return _in_pieces(find, _pieces(queries, keys, PIECE_BYTES), queries)


def look_up_by_kernel(queries: Queries, keys: HalfKeys, k: int) -> Lookup:
    """The same by the kernel for CPUs, which ranks on all cores; in pieces of tokens."""

    def find(queries: Array) -> Lookup:
        return Lookup(*best_slots(_product("thpc,hpnc->hptn", queries, keys), k))

    return _in_pieces(find, _pieces(queries, keys, PIECE_BYTES), queries)


def _take_by_comparing(x: Num[Array, "#q m"], places: Int[Array, "#q k"]) -> Num[Array, "q k"]:
    same = jnp.expand_dims(places, 2) == jnp.arange(x.shape[1])[None, None]
    return jnp.sum(jnp.where(same, jnp.expand_dims(x, 1), 0), axis=2, dtype=x.dtype)


def _without_negative_zero(scores: Float[Array, "..."]) -> Float[Array, "..."]:
    """Zeros of one sign: `lax.top_k` ranks -0.0 below 0.0, which are a tie."""
    return jnp.where(scores == 0, 0, scores)


def gradients(
    queries: Queries,
    keys: HalfKeys,
    slots: Int[Array, "t h k"],
    cotangent: Float[Array, "t h k"],
    *,
    spread: Callable[[Array, Array, int], Array],
    piece_bytes: int,
) -> tuple[Queries, HalfKeys]:
    """``dq = Σ g · K`` of a token, ``dK = Σ g · q`` of all tokens that found the key.

    ``cotangent`` is that of the scores of the slots found; `spread_by_index` or, for a TPU,
    `spread_by_comparing` lays it out over all keys, of which ``piece_bytes`` may be held at once.
    Both gradients are float32 at least.
    """

    def of_piece(queries: Array, slots: Array, cotangent: Array) -> tuple[Array, Array]:
        places = jnp.stack(jnp.divmod(slots.swapaxes(0, 1), keys.shape[2]), axis=1)
        scores = spread(cotangent.swapaxes(0, 1), places, keys.shape[2])
        of_keys = _product("hptn,thpc->hpnc", scores, queries)
        return _product("hptn,hpnc->thpc", scores, keys), of_keys

    def add(total: Array, piece: tuple[Array, ...]) -> tuple[Array, Array]:
        of_queries, of_keys = of_piece(*piece)
        return total + of_keys, of_queries

    tokens, pieces = queries.shape[0], _pieces(queries, keys, piece_bytes)
    if pieces == 1:
        return of_piece(queries, slots, cotangent)
    split = tuple(_split(array, pieces) for array in (queries, slots, cotangent))
    of_keys, of_queries = lax.scan(add, jnp.zeros(keys.shape, cotangent.dtype), split)
    return of_queries.reshape(-1, *of_queries.shape[2:])[:tokens], of_keys


def spread_by_index(
    cotangent: Float[Array, "h t k"], places: Int[Array, "h 2 t k"], n: int
) -> Float[Array, "h 2 t n"]:
    """``Σ_k cotangent[h, t, k]`` where ``places[h, p, t, k]`` is ``n``."""

    def of_query(cotangent: Array, places: Array) -> Array:
        zeros = jnp.zeros(n, cotangent.dtype)
        return zeros.at[places].add(cotangent, mode="promise_in_bounds")

    of_tokens = jax.vmap(of_query)
    of_halves = jax.vmap(of_tokens, in_axes=(None, 0))
    return jax.vmap(of_halves)(cotangent, places)


def spread_by_comparing(
    cotangent: Float[Array, "h t k"], places: Int[Array, "h 2 t k"], n: int
) -> Float[Array, "h 2 t n"]:
    """The same without indexing."""
    same = jnp.expand_dims(places, 3) == jnp.arange(n)[None, None, None, :, None]
    return jnp.sum(jnp.where(same, jnp.expand_dims(cotangent, (1, 3)), 0), axis=4)


def _pieces(queries: Array, keys: Array, piece_bytes: int) -> int:
    """Runs of tokens to make, so that the scores of one fit in so many bytes."""
    tokens, heads, n = *queries.shape[:2], keys.shape[2]
    return max(1, -(-tokens // max(1, piece_bytes // (2 * heads * n * 4))))


def _in_pieces(find: Callable[[Array], Lookup], pieces: int, queries: Array) -> Lookup:
    if pieces == 1:
        return find(queries)
    found = lax.map(find, _split(queries, pieces))
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[: queries.shape[0]], found)


def _split(x: Num[Array, "t ..."], pieces: int) -> Num[Array, "p s ..."]:
    """Runs of one length; the last is filled up with zeros."""
    size = -(-x.shape[0] // pieces)
    padding = [(0, -x.shape[0] % size)] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, padding).reshape(-1, size, *x.shape[1:])


def _product(dimensions: str, a: Num[Array, "..."], b: Num[Array, "..."]) -> Array:
    """A product in float32 at least."""
    dtype: Any = jnp.promote_types(jnp.float32, jnp.promote_types(a.dtype, b.dtype))
    return jnp.einsum(dimensions, a.astype(dtype), b.astype(dtype), precision=lax.Precision.HIGHEST)
