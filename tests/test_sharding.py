"""Meshes, placements, and functions of one trial run side by side."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.mesh import TRIAL, device_mesh
from smf_jax.sharding import (
    over_trials,
    replicate,
    restack,
    split_over,
    stack,
    unstack,
)


@pytest.fixture(scope="module")
def mesh():
    return device_mesh(TRIAL)


def trees(count):
    """Trees whose numbers tell them apart; a zero of each is negative."""
    return [
        {"a": jnp.asarray([[-0.0, i], [np.inf, np.nan]], jnp.float32), "n": jnp.asarray(i)}
        for i in range(count)
    ]


def test_replicas_lie_whole_on_every_device(mesh):
    placed = replicate(trees(1)[0], mesh)["a"]
    assert placed.sharding.is_fully_replicated and len(placed.addressable_shards) == 8
    assert all(shard.data.shape == (2, 2) for shard in placed.addressable_shards)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_split_gives_every_device_its_part(mesh, axis):
    array = np.arange(16 * 16).reshape(16, 16)
    placed = split_over({"x": array}, mesh, TRIAL, axis)["x"]
    np.testing.assert_array_equal(placed, array)
    parts = [np.asarray(shard.data) for shard in placed.addressable_shards]
    np.testing.assert_array_equal(np.concatenate(parts, axis), array)
    assert {part.shape for part in parts} == {(2, 16) if axis == 0 else (16, 2)}


def bits(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf).view(np.int32), tree)


def test_trials_are_put_side_by_side_again_where_they_are(mesh):
    placed = split_over(stack(trees(8)), mesh, TRIAL)
    own = [unstack(placed, place) for place in range(8)]
    own[3] = jax.tree.map(lambda leaf: -leaf, own[3])
    again = restack(own, mesh)
    assert all(leaf.sharding == placed[name].sharding for name, leaf in again.items())
    for place in range(8):
        expected = trees(8)[place]
        if place == 3:
            expected = jax.tree.map(lambda leaf: -leaf, expected)
        jax.tree.map(np.testing.assert_array_equal, bits(unstack(again, place)), bits(expected))


@pytest.mark.parametrize("devices", [None, 1, 4, 8])
def test_a_trial_is_taken_back_bit_for_bit(devices):
    stacked = stack(trees(8))
    if devices is not None:
        stacked = split_over(stacked, device_mesh(TRIAL, jax.devices()[:devices]), TRIAL)
    for index, tree in enumerate(trees(8)):
        own = unstack(stacked, index)
        jax.tree.map(np.testing.assert_array_equal, bits(own), bits(tree))
        if devices is not None:
            assert own["a"].devices() == {jax.devices()[index * devices // 8]}
        rows = unstack(stacked["a"], index, rows=np.array([1, 0]))
        np.testing.assert_array_equal(bits(rows), bits(tree["a"])[::-1])
    host = jax.device_get(stacked)
    jax.tree.map(np.testing.assert_array_equal, bits(unstack(host, 3)), bits(trees(4)[3]))


def test_every_device_runs_its_own_trial_on_what_is_shared(mesh):
    def function(shared, trial):
        # A branch that only some devices take, and a loop whose length differs between them.
        count = jax.lax.while_loop(lambda i: i < trial["n"], lambda i: i + 1, 0)
        return {"sum": shared["x"] + count, "mine": trial["a"]}

    run = over_trials(function, mesh, (False, True))
    shared = replicate({"x": jnp.arange(3)}, mesh)
    out = run(shared, split_over(stack(trees(8)), mesh, TRIAL))
    np.testing.assert_array_equal(out["sum"], np.arange(8)[:, None] + np.arange(3))
    jax.tree.map(np.testing.assert_array_equal, bits(out["mine"]), bits(stack(trees(8))["a"]))
    assert len(out["sum"].sharding.device_set) == 8


def test_donated_arguments_are_taken_over(mesh):
    run = over_trials(lambda shared, state: state + shared, mesh, (False, True), donate=(1,))
    shared, state = replicate(jnp.ones(4), mesh), split_over(jnp.zeros((8, 4)), mesh, TRIAL)
    out = run(shared, state)
    assert state.is_deleted() and not shared.is_deleted()
    assert (np.asarray(out) == 1).all()


def test_every_argument_is_said_to_be_shared_or_not(mesh):
    run = over_trials(lambda a: a, mesh, (True, True))
    with pytest.raises(ValueError):
        run(jnp.zeros(8))
