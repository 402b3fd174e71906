"""Parameters by path: the flat form in which states, patches and checkpoints speak, and its names.

The paths of a decoder's leaves are a public contract. They are spelled and parsed here only::

  layers_3/attention/query/kernel    block 3
  layers_3/attention/query/codes     of the same, quantised, with its scales beside it
  memory/layer_3/keys                what block 3 has of its own to read a memory with
  memory/pool_3/values               the table of the pool that block 3 is the first to read
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from smf_jax.tables import is_implicit

Tree = Mapping[str, Any]
Params = dict[str, Array]

MEMORY = "memory"
_PART = re.compile(r"memory/(layer|pool)_(\d+)/(.+)")
# A pool may also stand somewhere below, as in the module of somebody else.
_POOL = re.compile(r"(.*/)?memory/pool_\d+/values")
_BLOCK = re.compile(r"layers_(\d+)/")
_ROUTING = ("query/", "query_norm/", "query_scale", "keys", "key_scale")
_BATCH_STATS = ("/query_norm/mean", "/query_norm/variance")


class MemoryPart(NamedTuple):
    """Where a leaf of a decoder's memory belongs."""

    kind: str  # ``layer`` or ``pool``
    number: int  # of the block that has the layer, or that is the first to read the pool
    leaf: str  # the rest of the path


def pool_path(pool: int) -> str:
    """Path of the table of a pool."""
    return f"{MEMORY}/pool_{pool}/values"


def memory_layer_path(block: int) -> str:
    """Path of the memory layer of a block."""
    return f"{MEMORY}/layer_{block}"


def memory_part(path: str) -> MemoryPart | None:
    """The layer or the pool of a decoder's memory that a leaf belongs to, if it is of a memory."""
    found = _PART.fullmatch(path)
    return None if found is None else MemoryPart(found[1], int(found[2]), found[3])


def block_path(block: int) -> str:
    """Path of a block of a decoder; what its memory has stands apart, see `memory_layer_path`."""
    return f"layers_{block}"


def block_of(path: str) -> int | None:
    """The block that a leaf belongs to, ``None`` for embedding, head and memories."""
    found = _BLOCK.match(path)
    return None if found is None else int(found[1])


def is_memory(path: str) -> bool:
    """Whether a leaf belongs to the memories of a decoder."""
    return path.startswith(f"{MEMORY}/")


def is_pool(path: str) -> bool:
    """Whether a leaf is the table of a pool."""
    return _POOL.fullmatch(path) is not None


def is_routing(path: str) -> bool:
    """Whether ``memory/layer_0/keys`` and its like decide which slots a layer reads."""
    part = memory_part(path)
    return part is not None and part.kind == "layer" and part.leaf.startswith(_ROUTING)


def is_batch_stats(path: str) -> bool:
    """Whether a leaf is a running statistic: kept by path like any other, trained by nobody."""
    return path.endswith(_BATCH_STATS)


def is_quantised(path: str) -> bool:
    """Whether a leaf is of a quantised matrix, which nobody trains and nothing casts."""
    return path.endswith(("/codes", "/scales")) and not is_memory(path)


def flatten(tree: Tree) -> Params:
    """Nested parameters to ``{"layers_0/attention/query/kernel": array, …}``, in sorted order."""
    return dict(sorted(_leaves(tree, ""), key=lambda leaf: leaf[0]))


def _leaves(tree: Tree, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, node in tree.items():
        if isinstance(node, Mapping):
            yield from _leaves(node, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", node


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    nested: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return nested


def split(flat: Mapping[str, Any], trains: Callable[[str], bool]) -> tuple[Params, Params]:
    """Flat parameters whose path ``trains``, and the others: ``(trainable, frozen)``."""
    trainable = {path: leaf for path, leaf in flat.items() if trains(path)}
    frozen = {path: leaf for path, leaf in flat.items() if path not in trainable}
    return trainable, frozen


def widened(params: Mapping[str, Array]) -> Params:
    """Float32 masters of narrower leaves: an update below half a bfloat16 step would vanish."""
    return {
        path: leaf.astype(jnp.promote_types(jnp.float32, leaf.dtype))
        for path, leaf in params.items()
    }


def count_parameters(tree: Any) -> int:
    """Number of scalars in all leaves; of implicit tables those of rows that exist."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree, is_leaf=is_implicit))


def count_bytes(tree: Any) -> int:
    """Bytes of all leaves."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
