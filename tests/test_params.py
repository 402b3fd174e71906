"""Trees by path."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from smf_jax.params import count_bytes, count_parameters, flatten, split, unflatten

NESTED = {"b": {"y": {"z": jnp.ones((2, 3))}, "x": jnp.zeros(4)}, "a": jnp.ones((), jnp.bfloat16)}


def test_flat_paths_are_sorted_and_come_back():
    flat = flatten(NESTED)
    assert list(flat) == ["a", "b/x", "b/y/z"]
    back = unflatten(flat)
    assert back.keys() == NESTED.keys() and back["b"]["y"]["z"] is NESTED["b"]["y"]["z"]


def test_a_split_holds_every_leaf_once():
    flat = flatten(NESTED)
    trainable, frozen = split(flat, lambda path: path.startswith("b/"))
    assert list(trainable) == ["b/x", "b/y/z"] and list(frozen) == ["a"]
    assert split(flat, lambda _: False) == ({}, flat)


def test_counts():
    assert count_parameters(NESTED) == 6 + 4 + 1
    assert count_bytes(NESTED) == 4 * 10 + 2
    assert count_bytes({"n": np.zeros(3, np.int8)}) == 3
