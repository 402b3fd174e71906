"""The kernel that sorts ids and counts them, against NumPy."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.cpu_kernels.sorted_runs import sorted_runs

pytestmark = pytest.mark.usefixtures("kernels")


def require_runs(ids, table_slots):
    in_order, lengths = jax.jit(partial(sorted_runs, table_slots=table_slots))(ids)
    assert in_order.dtype == lengths.dtype == jnp.int32
    np.testing.assert_array_equal(in_order, np.sort(ids))
    distinct, last, counts = np.unique(np.sort(ids)[::-1], return_index=True, return_counts=True)
    expected = np.zeros(len(ids), np.int32)
    expected[len(ids) - 1 - last] = np.where(distinct < table_slots, counts, 0)
    np.testing.assert_array_equal(lengths, expected)


# One, two and three digits, and the ids beside their limits.
@pytest.mark.parametrize("table_slots", [1, 7, 2047, 2048, 2**22 - 1, 2**22, 2**31 - 1])
@pytest.mark.parametrize("reads", [0, 1, 2, 1000])
def test_ids_stand_in_order_and_are_counted(table_slots, reads):
    rng = np.random.default_rng(reads)
    ids = rng.integers(0, table_slots + 1, reads).astype(np.int32)
    require_runs(ids, table_slots)
    require_runs(np.minimum(ids, ids[::-1]), table_slots)
    require_runs(np.full(reads, table_slots, np.int32), table_slots)
    require_runs(np.zeros(reads, np.int32), table_slots)


def test_few_slots_are_read_often():
    ids = np.random.default_rng(0).integers(0, 5, 3000).astype(np.int32)
    require_runs(np.where(ids == 3, 2**21, ids).astype(np.int32), 2**22)


def test_in_shard_map_devices_sort_their_own():
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:4]), ("d",))
    ids = np.random.default_rng(0).integers(0, 9, 40).astype(np.int32)
    sort = partial(sorted_runs, table_slots=8)
    of_all = jax.jit(jax.shard_map(sort, mesh=mesh, in_specs=jax.P("d"), out_specs=jax.P("d")))(ids)
    for part, of_device in enumerate(ids.reshape(4, 10)):
        for array, truth in zip(of_all, sorted_runs(jnp.asarray(of_device), 8), strict=True):
            np.testing.assert_array_equal(array[10 * part : 10 * (part + 1)], truth)
