"""Parameter trees by path: the flat form in which states, patches and checkpoints speak."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import traverse_util
from jaxtyping import Array

Tree = Mapping[str, Any]
Params = dict[str, Array]


def flatten(tree: Tree) -> Params:
    """Nested parameters to ``{"layers_0/attention/query/kernel": array, …}``, in sorted order."""
    flat: dict[str, Any] = dict(traverse_util.flatten_dict(tree, sep="/"))
    return {path: flat[path] for path in sorted(flat)}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    return traverse_util.unflatten_dict(dict(flat), sep="/")


def split(flat: Mapping[str, Array], trains: Callable[[str], bool]) -> tuple[Params, Params]:
    """Splits flat parameters by path into those that train and those that are frozen.

    Args:
      flat: parameters by path.
      trains: whether the leaf at a path is trained.

    Returns:
      ``(trainable, frozen)``; together they hold every leaf once.
    """
    trainable = {path: leaf for path, leaf in flat.items() if trains(path)}
    frozen = {path: leaf for path, leaf in flat.items() if path not in trainable}
    return trainable, frozen


def count_parameters(tree: Any) -> int:
    """Number of scalars in all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def count_bytes(tree: Any) -> int:
    """Bytes of all leaves."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
