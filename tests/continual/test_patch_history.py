"""Patches made from the rows that changed, against those made from whole models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from smf_jax.continual.patch_history import PatchHistory
from smf_jax.sparse.patch import apply_patch, diff_params

POOL, OTHER, ALPHA = "memory/pool_1/values", "memory/pool_2/values", "memory/layer_1/alpha"


@pytest.fixture
def states() -> list[dict[str, Any]]:
    """A base and what three tasks make of it; tasks write rows that others wrote before."""
    rng = np.random.default_rng(0)
    shapes = {POOL: (64, 4), OTHER: (64, 4)}
    state = {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}
    states: list[dict[str, Any]] = [state | {ALPHA: np.float32(0.25)}]
    for task in range(3):
        after: dict[str, Any] = {path: np.copy(leaf) for path, leaf in states[-1].items()}
        after[POOL][[3, 4 + task, 9]] += 1
        after[OTHER][[5 * task]] *= -1
        after[ALPHA] = np.float32(0.25 + task)
        states.append(after)
    return states


def written(before, after) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What a step tells of its writes: the slots, one of them back where it was, and new rows."""
    told = {}
    for pool in (POOL, OTHER):
        changed = np.flatnonzero((before[pool] != after[pool]).any(axis=1))
        slots = np.union1d(changed, [60])
        told[pool] = slots, after[pool][slots]
    return told


def patches_of(history: PatchHistory, states, first: int) -> list:
    return [
        history.patch(f"task {n}", written(states[n], states[n + 1]), {ALPHA: states[n + 1][ALPHA]})
        for n in range(first, 3)
    ]


def test_patches_are_those_between_whole_models(states):
    parent = "mark"
    for number, patch in enumerate(patches_of(PatchHistory(states[0], "mark"), states, 0)):
        whole = diff_params(
            states[number], states[number + 1], task=patch.task, base="mark", parent=parent
        )
        assert patch.fingerprint == whole.fingerprint
        assert patch.parent == parent
        assert 60 not in patch.pools[POOL].slots
        params = apply_patch(states[number], patch, base="mark")
        for path, leaf in states[number + 1].items():
            np.testing.assert_array_equal(params[path], leaf)
        parent = patch.fingerprint


@pytest.mark.parametrize("done", [1, 2])
def test_a_history_taken_up_goes_on_as_the_old_one(states, done):
    whole = patches_of(PatchHistory(states[0], "mark"), states, 0)
    history = PatchHistory(states[0], "mark")
    params = history.take_up(whole[:done])
    for path, leaf in states[done].items():
        np.testing.assert_array_equal(params[path], leaf)
    rest = patches_of(history, states, done)
    assert [p.fingerprint for p in rest] == [p.fingerprint for p in whole[done:]]
    assert [p.parent for p in rest] == [p.parent for p in whole[done:]]


def test_the_base_is_left_as_it_is(states):
    before = {path: np.copy(leaf) for path, leaf in states[0].items()}
    history = PatchHistory(states[0], "mark")
    history.take_up(patches_of(history, states, 0))
    for path, leaf in before.items():
        np.testing.assert_array_equal(states[0][path], leaf)


def test_patches_of_another_base_or_out_of_order_are_refused(states):
    whole = patches_of(PatchHistory(states[0], "mark"), states, 0)
    with pytest.raises(ValueError, match="base"):
        PatchHistory(states[0], "another").take_up(whole)
    with pytest.raises(ValueError, match="row"):
        PatchHistory(states[0], "mark").take_up(whole[1:])
