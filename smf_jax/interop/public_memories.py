"""Public product-key memories read into our layout; a tensor that no layout lists is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smf_jax.interop.tensor_files import is_kernel, shape_problems
from smf_jax.memory.config import MemoryConfig
from smf_jax.memory.layer import MemoryLayer
from smf_jax.params import flatten

Arrays = Mapping[str, np.ndarray]
Leaves = dict[str, np.ndarray]
TABLES = ("values", "expert_inputs")


@dataclass(frozen=True)
class MemoryLayout:
    """How a source lays out one memory block."""

    source: str  # the repository
    tensors: Mapping[str, str]  # name there to path here: a leaf of `MemoryLayer`, or of `TABLES`
    # From the source's hyper-parameters to fields of `MemoryConfig`; at least ``heads`` and
    # ``reads``. Sizes are told by the shapes.
    choices: Callable[[Mapping[str, Any]], dict[str, Any]]
    turned: bool = True  # matrices are ``(out, in)``, as PyTorch has them
    # The halves of a query lie outside of its heads, ``(2·h·c, d)``, and those of the keys inside
    # of their slots, ``(h, n, 2, c)``; otherwise ``(h·2·c, d)`` and ``(h·2·n, c)``.
    half_major: bool = False

    def leaves(self, tensors: Arrays, heads: int) -> Leaves:
        """Tensors that the layout lists, or gradients by them, by our paths and in our layout."""
        leaves = {}
        for name, tensor in tensors.items():
            path, leaf = self.tensors[name], np.asarray(tensor)
            if path == "keys":
                order = (-1, 2) if self.half_major else (2, -1)
                leaf = leaf.reshape(heads, *order, leaf.shape[-1])
                leaf = leaf.swapaxes(1, 2) if self.half_major else leaf
            elif path.startswith("query/") and self.half_major:
                split = leaf.reshape(2, heads, -1, *leaf.shape[1:])
                leaf = split.swapaxes(0, 1).reshape(leaf.shape)
            leaves[path] = leaf.T if self.turned and is_kernel(path) else leaf
        return leaves


FACEBOOK_MEMORY = MemoryLayout(
    source="facebookresearch/memory",
    tensors={
        "query_w": "query/kernel",
        "query_b": "query/bias",
        "keys": "keys",
        "values": "values",
        "swilu_w": "gate/kernel",
        "swilu_b": "gate/bias",
        "value_proj_w": "output/kernel",
        "value_proj_b": "output/bias",
    },
    choices=lambda given: {
        "heads": given["mem_heads"],
        "reads": given["mem_knn"],
        "gate": "silu" if given["swilu_projection"] else "none",
    },
)
LUCIDRAINS_PKM = MemoryLayout(
    source="lucidrains/product-key-memory",
    tensors={
        "to_queries_weight": "query/kernel",
        "norm_weight": "query_norm/scale",
        "norm_bias": "query_norm/bias",
        "keys": "keys",
        "values": "values",
    },
    choices=lambda given: {
        "heads": given["heads"],
        "reads": given["topk"],
        "gate": "none",
        "query_norm": "layer",
        "query_bias": False,
    },
    half_major=True,
)
# Our own paths and our own configuration: of files that are made from the formulas.
_PATHS = ("query/kernel", "query/bias", "keys", "query_scale", "key_scale", *TABLES)
_PATHS += tuple(f"query_norm/{leaf}" for leaf in ("scale", "bias", "mean", "variance"))
_PATHS += ("gate/kernel", "gate/bias", "output/kernel", "output/bias")
_PATHS += ("output_norm/scale", "output_norm/bias")
# Choices that are newer than some of these files: where one is not told, it is the usual one.
_NEWER = {name: getattr(MemoryConfig(), name) for name in ("router", "max_ngram", "join")}
PLAIN_MEMORY = MemoryLayout(
    source="smf_jax",
    tensors={path: path for path in _PATHS},
    choices=lambda given: {
        field.name: {**_NEWER, **given}[field.name] for field in fields(MemoryConfig)
    },
    turned=False,
)
LAYOUTS = {each.source: each for each in (FACEBOOK_MEMORY, LUCIDRAINS_PKM, PLAIN_MEMORY)}


class ImportedMemory(NamedTuple):
    """A memory block in this library's layout, for a model of width ``d``."""

    config: MemoryConfig
    width: int
    params: Leaves  # of the layer, by path
    tables: Leaves  # ``values`` ``(N, v)`` and, of experts, ``expert_inputs`` ``(N, d)``


def import_memory(
    layout: MemoryLayout, tensors: Arrays, hyper_parameters: Mapping[str, Any]
) -> ImportedMemory:
    """Reads one memory block of a public implementation, whose layout is one of `LAYOUTS`.

    ``tensors`` are all its weights by the source's names and nothing else; ``hyper_parameters``
    that no choice needs are not heeded. A ValueError names a tensor or hyper-parameter that is
    unknown, missing, or of a shape that does not fit the others.
    """
    if unknown := sorted(tensors.keys() - layout.tensors.keys()):
        raise ValueError(
            f"tensors {unknown} are not of {layout.source}, whose tensors are "
            f"{sorted(layout.tensors)}; layouts are known of {', '.join(LAYOUTS)}"
        )
    try:
        choices = layout.choices(hyper_parameters)
    except KeyError as error:
        raise ValueError(
            f"{layout.source}: the hyper-parameter {error} is missing; given are "
            f"{sorted(hyper_parameters)}"
        ) from None
    try:
        leaves = layout.leaves(tensors, choices["heads"])
    except ValueError as error:
        shapes = {name: np.shape(tensor) for name, tensor in tensors.items()}
        raise ValueError(f"heads={choices['heads']} do not fit {shapes}: {error}") from None
    if missing := [path for path in ("query/kernel", "keys", "values") if path not in leaves]:
        raise ValueError(f"no {', no '.join(missing)} among the tensors {sorted(tensors)}")
    leaves = {path: leaf.astype(np.float32) for path, leaf in leaves.items()}
    tables = {path: leaf for path, leaf in leaves.items() if path in TABLES}
    params = {path: leaf for path, leaf in leaves.items() if path not in TABLES}
    sizes = {
        "keys_per_half": math.isqrt(len(tables["values"])),
        "key_width": 2 * leaves["keys"].shape[-1],
        "value_width": tables["values"].shape[1],
    }
    config, width = MemoryConfig(**{**sizes, **choices}), len(leaves["query/kernel"])
    arguments = tables["values"], None, tables.get("expert_inputs")
    init, x = MemoryLayer(config, width).init, jnp.zeros((1, 1, width))
    wanted = flatten(jax.eval_shape(init, jax.random.key(0), x, *arguments)["params"])
    if problems := shape_problems(params, wanted):
        raise ValueError(f"the tensors make no memory of {config}: {problems}")
    return ImportedMemory(config, width, params, tables)
