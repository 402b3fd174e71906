"""The best slots of queries by the kernel for CPUs, where `library.is_available`."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from smf_jax.cpu_kernels.library import call


def best_slots(
    half_scores: Float[Array, "h 2 t n"], k: int
) -> tuple[Float[Array, "t h k"], Int[Array, "t h k"]]:
    """The ``k`` best sums of a score of each half, and their slots (PKM 1907.05242, section 3.1).

    Scores are float32 or float64, and come out descending, ties in the order of `lax.top_k`; slots
    are int32, and ``1 ≤ k ≤ n``.
    """
    heads, _, tokens, _ = half_scores.shape
    found, dtype = (tokens, heads, k), half_scores.dtype
    target = f"smf_jax_best_slots_f{8 * dtype.itemsize}"
    return call(target, [(found, dtype), (found, jnp.int32)], half_scores)
