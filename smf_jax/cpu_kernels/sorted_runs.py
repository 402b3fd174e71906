"""Ids sorted and counted by the kernel for CPUs, where `library.is_available`."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from smf_jax.cpu_kernels.library import call


def sorted_runs(
    ids: Int[Array, " m"], table_slots: int
) -> tuple[Int[Array, " m"], Int[Array, " m"]]:
    """Ids in ascending order, and the lengths of their runs; all int32, no id negative.

    A length stands at the last of a run of equal ids; it is zero elsewhere and for ids of
    ``N``, ``table_slots``, and above.
    """
    same = (ids.shape, jnp.int32)
    return call("smf_jax_sorted_runs", [same, same], ids, table_slots=np.int64(table_slots))
