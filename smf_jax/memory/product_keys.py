"""Product-key lookup: from queries to slots and read weights (PKM 1907.05242, section 3)."""

from __future__ import annotations

from functools import partial
from typing import Literal

import jax
from jax import lax
from jaxtyping import Array, Float

from smf_jax.memory.lookup import (
    GPU_PIECE_BYTES,
    PIECE_BYTES,
    HalfKeys,
    Lookup,
    Queries,
    gradients,
    look_up_by_comparing,
    look_up_by_sorting,
    look_up_on_cpu,
    spread_by_comparing,
    spread_by_index,
)

ScoreWeighting = Literal["softmax", "relu"]


def product_key_lookup(queries: Queries, keys: HalfKeys, k: int) -> Lookup:
    """Finds the ``k`` best of ``N = n²`` slots per head from ``2n`` scores, exactly.

    ``score(i·n + j) = q₁·K₁[i] + q₂·K₂[j]``; the best ``k`` of each half are enough for an exact
    answer (PKM 1907.05242, section 3.1). Scores are float32 whatever the model computes in: in
    bfloat16 most rows tie at the ``k`` boundary. Ties go to the lower position in the row-major
    ``k × k`` list of the two halves' winners (what ``lax.top_k`` does), which is not always the
    lower slot.

    Queries are of any float dtype, their first half is sub-query 1. Scores carry gradients to
    queries and keys (in reverse mode); slots are int32. A ``k`` outside ``[1, n]`` is a ValueError,
    and so are shapes that do not fit each other.
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
def _look_up(queries: Queries, keys: HalfKeys, k: int) -> Lookup:
    forms = {"cpu": look_up_on_cpu, "tpu": look_up_by_comparing, "default": look_up_by_sorting}
    return lax.platform_dependent(
        queries, keys, **{name: partial(form, k=k) for name, form in forms.items()}
    )


def _forward(queries: Array, keys: Array, k: int) -> tuple[Lookup, tuple[Array, Array, Array]]:
    # Nothing of all scores is kept for the backward pass.
    found: Lookup = _look_up(queries, keys, k)
    return found, (queries, keys, found.slots)


def _backward(_: int, residual: tuple[Array, ...], cotangent: Lookup) -> tuple[Array, Array]:
    queries, keys, _slots = residual
    of_queries, of_keys = lax.platform_dependent(
        *residual,
        cotangent.scores,
        cpu=partial(gradients, spread=spread_by_index, piece_bytes=PIECE_BYTES),
        tpu=partial(gradients, spread=spread_by_comparing, piece_bytes=PIECE_BYTES),
        default=partial(gradients, spread=spread_by_index, piece_bytes=GPU_PIECE_BYTES),
    )
    return of_queries.astype(queries.dtype), of_keys.astype(keys.dtype)


_look_up.defvjp(_forward, _backward)


def read_weights(
    scores: Float[Array, "t h k"], score: ScoreWeighting = "softmax"
) -> Float[Array, "t h k"]:
    """Turns scores into read weights: softmax over a head's ``k`` winners, or their ReLU.

    The softmax is of temperature 1, as in PKM and after. Weights are float32, not negative.
    """
    if score == "softmax":
        return jax.nn.softmax(scores, axis=-1)
    if score == "relu":
        return jax.nn.relu(scores)
    raise ValueError(f"score={score!r} is unknown; expected 'softmax' or 'relu'")
