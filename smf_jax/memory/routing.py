"""Product-key lookup: from queries to slots and read weights (PKM 1907.05242, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Num

# Sub-scores that one piece may hold where they are looked up in pieces.
PIECE_BYTES = 8 * 2**20

ScoreWeighting = Literal["softmax", "relu"]


class Lookup(NamedTuple):
    """The ``k`` best slots of every head, best first.

    Attributes:
      scores: ``(t, h, k)``, float32 (or float64), descending.
      slots: ``(t, h, k)`` int32, ``slot = first_key · n + second_key``.
    """

    scores: Float[Array, "t h k"]
    slots: Int[Array, "t h k"]


@lru_cache
def candidate_pairs(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions ``(i, j)`` among the two halves' winners that can be among the ``k`` best sums.

    Both lists of winners are sorted, so the pair ``(i, j)`` is preceded by all
    ``(i+1)(j+1) - 1`` pairs ``(i' ≤ i, j' ≤ j)``: none scores less, and each stands earlier in the
    row-major ``k × k`` list, hence wins its ties. A pair with ``(i+1)(j+1) > k`` therefore never
    enters the best ``k``. At ``k = 32`` that leaves 119 of 1,024 pairs.

    Args:
      k: reads per head.

    Returns:
      Two int32 vectors, the ``i`` and the ``j`` of every surviving pair in row-major order.
    """
    first, second = np.divmod(np.arange(k * k), k)
    keep = (first + 1) * (second + 1) <= k
    return first[keep].astype(np.int32), second[keep].astype(np.int32)


def product_key_lookup(
    queries: Float[Array, "t h 2 c"], keys: Float[Array, "h 2 n c"], k: int
) -> Lookup:
    """Finds the ``k`` best of ``N = n²`` slots per head from ``2n`` scores, exactly.

    ``score(i·n + j) = q₁·K₁[i] + q₂·K₂[j]``; the best ``k`` of each half are enough for an exact
    answer (PKM 1907.05242, section 3.1). Scores are float32 whatever the model computes in: in
    bfloat16 most rows tie at the ``k`` boundary. Ties go to the lower position in the row-major
    ``k × k`` list of the two halves' winners (what ``lax.top_k`` does), which is not always the
    lower slot.

    Args:
      queries: ``(t, h, 2, c)``, any float dtype; the first half is sub-query 1.
      keys: ``(h, 2, n, c)``.
      k: reads per head, ``1 ≤ k ≤ n``.

    Returns:
      A `Lookup`; scores carry gradients to queries and keys.

    Raises:
      ValueError: if ``k`` is out of range or the shapes do not fit each other.
    """
    _, h, halves, c = queries.shape
    if keys.ndim != 4 or keys.shape[:2] != (h, 2) or keys.shape[3] != c or halves != 2:
        raise ValueError(
            f"queries {queries.shape} and keys {keys.shape} do not fit: expected queries "
            "(t, h, 2, c) and keys (h, 2, n, c) with equal h and c"
        )
    n = keys.shape[2]
    if not 1 <= k <= n:
        raise ValueError(
            f"k={k} reads per head need 1 <= k <= n={n} keys per half; lower k or raise n"
        )
    return lax.platform_dependent(
        queries,
        keys,
        tpu=partial(_lookup_in_pieces, k=k),
        default=partial(_lookup, k=k, take=_take_by_index),
    )


def _lookup(
    queries: Float[Array, "t h 2 c"],
    keys: Float[Array, "h 2 n c"],
    k: int,
    take: Callable[[Array, Array], Array],
) -> Lookup:
    (t, h, _, _), n = queries.shape, keys.shape[2]
    dtype = jnp.promote_types(jnp.float32, jnp.promote_types(queries.dtype, keys.dtype))
    halves_scores = jnp.einsum(
        "thpc,hpnc->phtn",
        queries.astype(dtype),
        keys.astype(dtype),
        precision=lax.Precision.HIGHEST,
    )
    # Two-dimensional operands keep XLA's CPU backend on its top-k kernel; sliced outputs of one
    # higher-dimensional top_k fall back to a full sort.
    first, second = halves_scores[0].reshape(h * t, n), halves_scores[1].reshape(h * t, n)
    chosen_first, chosen_second = _best_pairs(first, second, k, take)
    scores = take(first, chosen_first) + take(second, chosen_second)
    slots = chosen_first * n + chosen_second
    return Lookup(
        scores=scores.reshape(h, t, k).swapaxes(0, 1), slots=slots.reshape(h, t, k).swapaxes(0, 1)
    )


def _lookup_in_pieces(
    queries: Float[Array, "t h 2 c"], keys: Float[Array, "h 2 n c"], k: int
) -> Lookup:
    """Runs of tokens whose scores fit in `PIECE_BYTES`, forwards and backwards."""
    tokens, heads, _, n = *queries.shape[:3], keys.shape[2]
    size = max(1, PIECE_BYTES // (2 * heads * n * 4))
    if size >= tokens:
        return _lookup(queries, keys, k, _take_by_comparing)
    padding = -tokens % size
    pieces = jnp.pad(queries, ((0, padding), (0, 0), (0, 0), (0, 0)))
    pieces = pieces.reshape(-1, size, *queries.shape[1:])
    found = lax.map(lambda piece: _lookup(piece, keys, k, _take_by_comparing), pieces)
    return Lookup(*(array.reshape(-1, heads, k)[:tokens] for array in found))


def _best_pairs(
    first: Float[Array, "q n"],
    second: Float[Array, "q n"],
    k: int,
    take: Callable[[Array, Array], Array],
) -> tuple[Int[Array, "q k"], Int[Array, "q k"]]:
    """Key indices of the ``k`` best sums, best first. Selection itself carries no gradient."""
    # top_k ranks -0.0 below 0.0, which are a tie.
    first, second = (jnp.where(half == 0, 0, half) for half in lax.stop_gradient((first, second)))
    first_scores, first_keys = lax.top_k(first, k)
    second_scores, second_keys = lax.top_k(second, k)
    rows, columns = (jnp.asarray(side)[None] for side in candidate_pairs(k))
    _, winners = lax.top_k(take(first_scores, rows) + take(second_scores, columns), k)
    return (
        take(first_keys, take(rows, winners)),
        take(second_keys, take(columns, winners)),
    )


def _take_by_index(x: Num[Array, "q m"], places: Int[Array, "q k"]) -> Num[Array, "q k"]:
    """``x[q, places[q, k]]``; either may have one row for all."""
    if places.shape[0] == 1:
        return x[:, places[0]]
    if x.shape[0] == 1:
        return x[0][places]
    return jnp.take_along_axis(x, places, axis=1)


@jax.custom_vjp
def _take_by_comparing(x: Num[Array, "q m"], places: Int[Array, "q k"]) -> Num[Array, "q k"]:
    """The same without indexing, which a TPU does a number at a time: it compares all places."""
    same = jnp.expand_dims(places, 2) == jnp.arange(x.shape[1])[None, None]
    return jnp.sum(jnp.where(same, jnp.expand_dims(x, 1), 0), axis=2, dtype=x.dtype)


def _take_forward(x: Array, places: Array) -> tuple[Array, tuple[Array, Array]]:
    # Not x, but as many columns: nothing of its size is kept for the backward pass.
    return _take_by_comparing(x, places), (places, jnp.arange(x.shape[1]))


def _take_backward(residual: tuple[Array, Array], cotangent: Array) -> tuple[Array, None]:
    places, columns = residual
    same = jnp.expand_dims(places, 1) == jnp.expand_dims(columns, (0, 2))
    return jnp.sum(jnp.where(same, jnp.expand_dims(cotangent, 1), 0), axis=2), None


_take_by_comparing.defvjp(_take_forward, _take_backward)


def read_weights(
    scores: Float[Array, "t h k"], score: ScoreWeighting = "softmax"
) -> Float[Array, "t h k"]:
    """Turns scores into read weights: softmax over a head's ``k`` winners, or their ReLU.

    Args:
      scores: ``(t, h, k)`` float32.
      score: ``"softmax"`` (temperature 1, PKM and after) or ``"relu"``.

    Returns:
      ``(t, h, k)`` float32, not negative.
    """
    if score == "softmax":
        return jax.nn.softmax(scores, axis=-1)
    if score == "relu":
        return jax.nn.relu(scores)
    raise ValueError(f"score={score!r} is unknown; expected 'softmax' or 'relu'")
