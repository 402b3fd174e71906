"""The kernels as functions of JAX arrays, where `library.is_available`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
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


def sorted_runs(
    ids: Int[Array, " m"], table_slots: int
) -> tuple[Int[Array, " m"], Int[Array, " m"]]:
    """Ids in ascending order, and the lengths of their runs.

    Args:
      ids: ``(m,)`` int32, none negative.
      table_slots: ``N``.

    Returns:
      Both ``(m,)`` int32. A length stands at the last of a run of equal ids; it is zero elsewhere
      and for ids of ``N`` and above.
    """
    same = jax.ShapeDtypeStruct(ids.shape, jnp.int32)
    call = jax.ffi.ffi_call("smf_jax_sorted_runs", (same, same), vmap_method="sequential")
    in_order, lengths = call(ids, table_slots=np.int64(table_slots))
    return in_order, lengths
