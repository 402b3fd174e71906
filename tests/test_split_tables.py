"""Tables of which each device has a part: rows to the bit, reads and gradients against NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax import split_tables
from smf_jax.memory.reading import read
from smf_jax.mesh import MEMORY, device_mesh
from smf_jax.sharding import over_trials, replicate, unstack
from smf_jax.sharding import split_tables as split_leaves
from smf_jax.sparse.rows import gather_rows, write_rows
from smf_jax.split_tables import is_split, whole
from smf_jax.tables import empty_table, explicit, on_host, rows_moved, with_capacity

LAYOUTS = ["columns", "rows"]
N, V = 32, 16


@pytest.fixture(scope="module")
def mesh():
    return device_mesh(MEMORY)


def table_of(dtype="float32"):
    values = np.random.default_rng(0).normal(size=(N, V)).astype(dtype)
    values[::3, ::2] = -0.0
    return values


def placed(values, mesh, layout):
    leaves = {"values": jnp.asarray(values)}
    (found,) = replicate(split_leaves(leaves, mesh, layout, lambda *_: True), mesh).values()
    assert is_split(found) and found.shape == (N, V) and len(found) == N and found.size == N * V
    return found


def run(mesh, function, *arguments):
    out = over_trials(function, mesh, (False,) * len(arguments))(*arguments)
    return unstack(out, 0)


def bits(array):
    return np.asarray(array).view(np.uint8)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_are_gathered_and_written_bit_for_bit(mesh, layout, dtype):
    values, table = table_of(dtype), placed(table_of(dtype), mesh, layout)
    slots = np.array([31, 0, N, 3, 17, 9, N], np.int32)
    new = np.random.default_rng(1).normal(size=(len(slots), V)).astype(dtype)
    new[0] = -0.0

    def function(table, slots, new):
        after = split_tables.scatter(table, slots, new)
        return split_tables.gather(table, slots), after, rows_moved(table, after)

    rows, after, moved = run(mesh, function, table, jnp.asarray(slots), jnp.asarray(new))
    used = slots < N
    np.testing.assert_array_equal(bits(rows)[used], bits(values[slots[used]]))
    assert not np.asarray(rows)[~used].any()
    expected = values.copy()
    expected[slots[used]] = new[used]
    np.testing.assert_array_equal(bits(whole(after)), bits(expected))
    np.testing.assert_array_equal(moved, (expected != values).any(axis=1))
    part = after.part.addressable_shards[0].data
    assert part.shape == ((N, V // 8) if layout == "columns" else (N // 8, V))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reads_and_gradients_of_a_split_table_are_those_of_numpy(mesh, layout):
    values, rng = table_of(), np.random.default_rng(2)
    slots = rng.integers(0, N, (6, 5)).astype(np.int32)
    weights, g = rng.random((6, 5), np.float32), rng.normal(size=(6, V)).astype(np.float32)

    def function(table, slots, weights, g):
        def loss(table, weights):
            y = read(table, slots, weights)
            return jnp.sum(y * g), y

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(table, weights)

    given = [jnp.asarray(each) for each in (slots, weights, g)]
    (_, y), (of_table, of_weights) = run(mesh, function, placed(values, mesh, layout), *given)
    np.testing.assert_allclose(y, np.einsum("tr,trv->tv", weights, values[slots]), atol=1e-5)
    expected = np.zeros((N, V))
    np.add.at(expected, slots, weights[:, :, None].astype(float) * g[:, None])
    assert is_split(of_table)
    np.testing.assert_allclose(whole(of_table), expected, atol=1e-5)
    np.testing.assert_allclose(of_weights, np.einsum("tv,trv->tr", g, values[slots]), atol=1e-5)


def test_of_a_table_that_starts_at_zero_the_written_rows_are_shared(mesh):
    rng, room = np.random.default_rng(3), 12
    leaves = {"values": with_capacity(empty_table(N, V), room)}
    leaves = split_leaves(leaves, mesh, "columns", lambda *_: True)
    first, second = (np.array(ids, np.int32) for ids in ([31, 0, N, 3], [3, 17, N, 9]))
    new = rng.normal(size=(4, V)).astype(np.float32)
    new[1, :3] = -0.0
    slots = rng.integers(0, N, (6, 5)).astype(np.int32)
    slots[:, 0] = [31, 3, 17, 9, 0, 3]
    weights, g = rng.random((6, 5), np.float32), rng.normal(size=(6, V)).astype(np.float32)

    def function(table, first, second, new, slots, weights, g):
        once = write_rows(table, first, new)
        after = write_rows(once, second, 2 * new)

        def loss(weights):
            y = read(after, slots, weights)
            return jnp.sum(y * g), y

        (_, y), of_weights = jax.value_and_grad(loss, has_aux=True)(weights)
        return after, gather_rows(after, slots[0]), rows_moved(once, after), y, of_weights

    given = [jnp.asarray(each) for each in (first, second, new, slots, weights, g)]
    after, rows, moved, y, of_weights = run(
        mesh, function, *replicate(leaves, mesh).values(), *given
    )
    once = np.zeros((N, V), np.float32)
    once[first[first < N]] = new[first < N]
    expected = once.copy()
    expected[second[second < N]] = 2 * new[second < N]
    assert after.rows.part.addressable_shards[0].data.shape == (room, V // 8)
    assert int(after.used) == 1 + 5
    np.testing.assert_array_equal(bits(explicit(on_host(after))), bits(expected))
    np.testing.assert_array_equal(bits(rows), bits(expected[slots[0]]))
    np.testing.assert_array_equal(moved, (once != expected).any(axis=1))
    np.testing.assert_allclose(y, np.einsum("tr,trv->tv", weights, expected[slots]), atol=1e-5)
    of_each = np.einsum("tv,trv->tr", g, expected[slots])
    np.testing.assert_allclose(of_weights, of_each, atol=1e-5)


def test_tables_that_devices_do_not_divide_are_refused(mesh):
    odd = {"memory/pool_0/values": jnp.zeros((N, 12))}
    with pytest.raises(ValueError, match="pool_0/values has value width 12, which 8 devices"):
        split_leaves(odd, mesh, "columns", lambda *_: True)
    assert is_split(split_leaves(odd, mesh, "rows", lambda *_: True)["memory/pool_0/values"])
