"""The best slots of queries by the kernel for CPUs, where `library.is_available`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def best_slots(
    half_scores: Float[Array, "h 2 t n"], k: int
) -> tuple[Float[Array, "t h k"], Int[Array, "t h k"]]:
    """The ``k`` best sums of a score of each half, and their slots (PKM 1907.05242, section 3.1).

    Args:
      half_scores: ``(h, 2, t, n)`` float32 or float64.
      k: reads per head, ``1 ≤ k ≤ n``.

    Returns:
      Scores ``(t, h, k)``, descending, and slots ``(t, h, k)`` int32; ties in the order of
      `lax.top_k`.
    """
    heads, _, tokens, _ = half_scores.shape
    found = (tokens, heads, k)
    results = (
        jax.ShapeDtypeStruct(found, half_scores.dtype),
        jax.ShapeDtypeStruct(found, jnp.int32),
    )
    bits = 8 * half_scores.dtype.itemsize
    target = f"smf_jax_best_slots_f{bits}"
    scores, slots = jax.ffi.ffi_call(target, results, vmap_method="sequential")(half_scores)
    return scores, slots
