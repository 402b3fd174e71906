"""Sizes of the mesh, and what a function asks of the devices beside it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from smf_jax.mesh import (
    AXES,
    DATA,
    MEMORY,
    TRIAL,
    all_rows,
    device_mesh,
    gather_over,
    joined_parts,
    make_mesh,
    mesh_sizes,
    own_part,
    own_rows,
    parts_along,
    sum_over,
    summed_parts,
    to_parts,
)


def along(mesh, function, *arrays):
    """Runs a function on every device of a mesh with the same arrays; the outputs stacked."""
    specs = (PartitionSpec(),) * len(arrays)
    stacked = jax.shard_map(
        lambda *own: jax.tree.map(lambda leaf: leaf[None], function(*own)),
        mesh=mesh, in_specs=specs, out_specs=PartitionSpec(AXES), check_vma=False,
    )  # fmt: skip
    return jax.device_get(jax.jit(stacked)(*arrays))


def test_a_mesh_has_three_automatic_axes():
    mesh = device_mesh(DATA, jax.devices()[2:5])
    assert mesh.shape == {TRIAL: 1, DATA: 3, MEMORY: 1}
    assert mesh.axis_types == (AxisType.Auto,) * 3
    assert mesh.devices.flatten().tolist() == jax.devices()[2:5]
    assert device_mesh(TRIAL).size == 8


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("", (8, 1, 1)),
        ("data:2", (4, 2, 1)),
        ("memory:4,trial:2", (2, 1, 4)),
        ("data:8", (1, 8, 1)),
    ],
)
def test_sizes_are_read_and_the_rest_goes_to_trials(text, sizes):
    assert tuple(mesh_sizes(text, 8).values()) == sizes


def test_rows_are_dealt_so_that_micro_batches_keep_theirs_and_come_back_in_order():
    mesh, batch = make_mesh({DATA: 4}, jax.devices()[:4]), np.arange(24).reshape(12, 2)

    def function(batch):
        own = own_rows({"x": batch})["x"]
        return own, all_rows(own), sum_over(DATA, jnp.sum(own)), jnp.int32(parts_along(DATA))

    own, again, total, parts = along(mesh, function, batch)
    for device in range(4):
        # The micro-batches of four rows are rows 0-3, 4-7 and 8-11.
        np.testing.assert_array_equal(own[device], batch[device::4])
        np.testing.assert_array_equal(again[device], batch)
    assert set(total) == {batch.sum()} and set(parts) == {4}


def test_nothing_is_shared_outside_of_a_mesh():
    x = jnp.arange(6.0).reshape(2, 3)
    assert parts_along(DATA) == 1
    for same in (own_rows(x), all_rows(x), sum_over(DATA, x), gather_over(MEMORY, x),
                 own_part(MEMORY, x, 1)):  # fmt: skip
        assert same is x


def test_rows_that_are_not_divided_are_refused():
    mesh = make_mesh({DATA: 4}, jax.devices()[:4])
    with pytest.raises(ValueError, match="--mesh=data:4: a batch of 6 rows"):
        along(mesh, own_rows, np.zeros((6, 2)))


@pytest.mark.parametrize("way", ["joined", "summed"])
def test_gradients_of_work_in_parts_are_those_of_the_whole(way):
    rng = np.random.default_rng(0)
    w, v, g = rng.normal(size=(3, 5)), rng.normal(size=(5, 8)), rng.normal(size=(3, 8))
    mesh = make_mesh({MEMORY: 4}, jax.devices()[:4])
    v32, w32 = v.astype(np.float32), w.astype(np.float32)

    def loss(w, v):
        w = to_parts(MEMORY, w)
        if way == "joined":
            y = joined_parts(MEMORY, w @ own_part(MEMORY, v, 1))
        else:
            # Each device takes a quarter of the product.
            y = summed_parts(MEMORY, w @ v / 4)
        return jnp.sum(y * g)

    value, (of_w, of_v) = along(mesh, jax.value_and_grad(loss, argnums=(0, 1)), w32, v32)
    np.testing.assert_allclose(value, np.sum(w @ v * g), rtol=1e-4)
    for device in range(4):
        np.testing.assert_allclose(of_w[device], g @ v.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_v.sum(axis=0), w.T @ g, rtol=1e-4, atol=1e-5)
