"""Ids sorted and counted by the kernel for CPUs, where `library.is_available`."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from smf_jax.cpu_kernels.library import call


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
    same = (ids.shape, jnp.int32)
    return call("smf_jax_sorted_runs", [same, same], ids, table_slots=np.int64(table_slots))
