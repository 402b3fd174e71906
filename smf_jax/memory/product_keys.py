"""Product-key lookup: from queries to slots and read weights (PKM 1907.05242, section 3)."""

from __future__ import annotations

from functools import partial
from typing import Literal

import jax
from jax import lax
from jaxtyping import Array, Float

from smf_jax.memory.lookup import (
    CPU_GRADIENT_PIECE_BYTES,
    Lookup,
    gradients_by_comparing,
    gradients_by_index,
    look_up_by_comparing,
    look_up_by_sorting,
    look_up_on_cpu,
)

ScoreWeighting = Literal["softmax", "relu"]


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
      A `Lookup`; scores carry gradients to queries and keys (in reverse mode).

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
    return _look_up(queries, keys, k)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _look_up(queries: Float[Array, "t h 2 c"], keys: Float[Array, "h 2 n c"], k: int) -> Lookup:
    return lax.platform_dependent(
        queries,
        keys,
        cpu=partial(look_up_on_cpu, k=k),
        tpu=partial(look_up_by_comparing, k=k),
        default=partial(look_up_by_sorting, k=k),
    )


def _forward(queries: Array, keys: Array, k: int) -> tuple[Lookup, tuple[Array, Array, Array]]:
    # Nothing of all scores is kept for the backward pass.
    found: Lookup = _look_up(queries, keys, k)
    return found, (queries, keys, found.slots)


def _backward(
    k: int, residual: tuple[Array, Array, Array], cotangent: Lookup
) -> tuple[Array, Array]:
    del k
    queries, keys, slots = residual
    of_queries, of_keys = lax.platform_dependent(
        queries,
        keys,
        slots,
        cotangent.scores,
        cpu=partial(gradients_by_index, piece_bytes=CPU_GRADIENT_PIECE_BYTES),
        tpu=gradients_by_comparing,
        default=gradients_by_index,
    )
    return of_queries.astype(queries.dtype), of_keys.astype(keys.dtype)


_look_up.defvjp(_forward, _backward)


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
