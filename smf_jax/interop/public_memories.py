"""Weights of public product-key memories, read into this library's layout.

Names and shapes decide. Two layouts of queries and keys exist. *Flat*: the query weight is
``(h·kd, d)``, head-major with the halves inside a head, and keys are ``(h·2·n, kd/2)`` with the
halves inside a head. *Half-major*: the query weight is ``(2·h·kd/2, d)`` with the halves outside,
and keys are ``(h, n, 2, kd/2)``. Linear weights are ``(out, in)``, as PyTorch has them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from smf_jax.memory.config import Gate, MemoryConfig, QueryNorm
from smf_jax.memory.layer import MemoryLayer

Arrays = Mapping[str, np.ndarray]
Leaves = dict[str, np.ndarray]

# What the parts of a memory are called, besides our own names. Weights and biases end in `_w`,
# `_b`, `_weight` or `_bias`; tables and keys may go without.
NAMES: dict[str, tuple[str, ...]] = {
    "query": ("query", "query_proj", "to_queries", "to_query", "queries", "q_proj", "wq"),
    "keys": ("keys", "key"),
    "gate": ("swilu", "swilu_proj", "swilu_projection", "gating", "gate", "gate_proj"),
    "output": ("value_proj", "value_projection", "output_proj", "out_proj", "output", "to_out"),
    "query_norm": ("norm", "query_norm", "queries_norm", "q_norm", "qnorm", "query_bn"),
    "key_norm": ("key_norm", "keys_norm", "k_norm", "knorm"),
    "output_norm": ("output_norm", "out_norm", "norm_output", "norm_out", "post_norm"),
    "values": ("values", "values_v", "value_v", "weight_up_embed", "up_embed", "up", "v"),
    "expert_inputs": ("values_u", "value_u", "weight_down_embed", "down_embed", "down", "u"),
}
_PART = {name: part for part, names in NAMES.items() for name in names}
_ENDINGS = {
    "_weight": "weight",
    "_bias": "bias",
    "_w": "weight",
    "_b": "bias",
    "_running_mean": "mean",
    "_running_var": "variance",
}
_NORM_LEAF = {"weight": "scale", "bias": "bias", "mean": "mean", "variance": "variance"}


class Imported(NamedTuple):
    """A memory block in this library's layout.

    Attributes:
      config: what the arrays say it is.
      layout: how its queries and keys lay.
      width: ``d``, of the model.
      params: of the layer, by path.
      values: ``(N, v)``.
      expert_inputs: ``(N, d)``, or ``None``.
      absent: paths of leaves that the arrays do not hold, for which neutral ones (zero biases, unit
        scales) stand in.
    """

    config: MemoryConfig
    layout: Layout
    width: int
    params: Leaves
    values: np.ndarray
    expert_inputs: np.ndarray | None
    absent: frozenset[str]


class Parts(NamedTuple):
    """Arrays by part and kind, as in ``("gate", "bias")``, and the names that are none of these."""

    found: dict[tuple[str, str], np.ndarray]
    unknown: tuple[str, ...]


def parts_of(arrays: Arrays) -> Parts:
    """Sorts arrays by what they are.

    Raises:
      ValueError: if two names say the same.
    """
    found: dict[tuple[str, str], np.ndarray] = {}
    names: dict[tuple[str, str], str] = {}
    unknown = []
    for name, array in arrays.items():
        kind = _part_and_kind(name)
        if kind is None:
            unknown.append(name)
        elif kind in found:
            raise ValueError(f"arrays {names[kind]} and {name} are both the {' '.join(kind)}")
        else:
            found[kind], names[kind] = array, name
    return Parts(found, tuple(unknown))


def _part_and_kind(name: str) -> tuple[str, str] | None:
    plain = name.replace(".", "_")
    for ending, kind in _ENDINGS.items():
        part = _PART.get(plain.removesuffix(ending))
        if plain.endswith(ending) and part is not None:
            return part, kind
    part = _PART.get(plain)
    return None if part is None else (part, "weight")


def import_memory(
    arrays: Arrays,
    *,
    heads: int,
    reads: int,
    score: str = "softmax",
    qk_norm: bool = False,
    norm_epsilon: float | None = None,
) -> Imported:
    """Reads one memory block of a public implementation.

    Args:
      arrays: its weights by name, as `NAMES` lists them; nothing else.
      heads: ``h``.
      reads: ``k``.
      score: ``softmax`` or ``relu``.
      qk_norm: whether queries and keys are RMS-normalised; told by their scales where they have
        any.
      norm_epsilon: of all norms, where it is not that of this library.

    Returns:
      The block, all float32.

    Raises:
      ValueError: if arrays are unknown, or those that there are make no memory; naming them.
    """
    found, unknown = parts_of(arrays)
    if unknown:
        raise ValueError(
            f"arrays {sorted(unknown)} are no part of a memory that is known; leave them out, or "
            f"give them names that are: {sorted(_PART)}"
        )
    missing = [part for part in ("query", "keys", "values") if (part, "weight") not in found]
    if missing:
        raise ValueError(f"no {', no '.join(missing)} among the arrays {sorted(arrays)}")
    found = {kind: np.asarray(array, np.float32) for kind, array in found.items()}
    values, inputs = found[("values", "weight")], found.get(("expert_inputs", "weight"))
    layout = layout_of(found[("keys", "weight")], heads, values.shape[0])
    width = found[("query", "weight")].shape[1]
    scaled = ("key_norm", "weight") in found
    config = MemoryConfig(
        keys_per_half=layout.keys_per_half,
        heads=heads,
        reads=reads,
        key_width=2 * layout.half,
        value_width=values.shape[1],
        gate=_gate(found),
        query_norm="none" if scaled or qk_norm else _query_norm(found),
        qk_norm=scaled or qk_norm,
        score=score,  # pyright: ignore[reportArgumentType]
        output_norm="layer" if ("output_norm", "weight") in found else "none",
        experts=inputs is not None,
        query_bias=("query", "bias") in found,
        norm_epsilon=norm_epsilon,
    )
    params = to_leaves(found, config, layout)
    neutral = _neutral(config, width)
    absent = frozenset(neutral.keys() - params.keys())
    imported = Imported(config, layout, width, {**neutral, **params}, values, inputs, absent)
    _check_leaves(imported)
    return imported


class Layout(NamedTuple):
    """How queries and keys lie.

    Attributes:
      half_major: whether the halves of a query lie outside of its heads.
      keys_axes: order of the axes ``(h, 2, n, c)`` in the keys, split.
      heads: ``h``.
      keys_per_half: ``n``.
      half: ``c = kd/2``.
    """

    half_major: bool
    keys_axes: tuple[int, ...]
    heads: int
    keys_per_half: int
    half: int

    def keys(self, keys: np.ndarray) -> np.ndarray:
        """Keys as ``(h, 2, n, c)``."""
        sizes = (self.heads, 2, self.keys_per_half, self.half)
        split = keys.reshape([sizes[axis] for axis in self.keys_axes])
        return split.transpose(np.argsort(self.keys_axes))

    def query(self, query: np.ndarray) -> np.ndarray:
        """The first axis of a query's weight or bias as ``h·2·c``."""
        if not self.half_major:
            return query
        split = query.reshape(2, self.heads, self.half, *query.shape[1:])
        return split.swapaxes(0, 1).reshape(query.shape)


def layout_of(keys: np.ndarray, heads: int, table_slots: int) -> Layout:
    """Tells the layout from the keys.

    Raises:
      ValueError: if the keys do not fit the heads and the table.
    """
    n, half = math.isqrt(table_slots), keys.shape[-1]
    orders = {
        (heads * 2 * n, half): (False, (0, 1, 2, 3)),
        (heads * 2, n, half): (False, (0, 1, 2, 3)),
        (heads, 2, n, half): (False, (0, 1, 2, 3)),
        (heads, n, 2, half): (True, (0, 2, 1, 3)),
    }
    if n * n != table_slots or keys.shape not in orders:
        raise ValueError(
            f"keys {keys.shape} do not fit heads={heads} and a table of {table_slots} rows; "
            f"expected one of {sorted(orders)} and n² rows"
        )
    half_major, axes = orders[keys.shape]
    return Layout(half_major, axes, heads, n, half)


def to_leaves(
    found: Mapping[tuple[str, str], np.ndarray], config: MemoryConfig, layout: Layout
) -> Leaves:
    """The leaves of a layer by path, from its parts or from the gradients of these."""
    params: Leaves = {}
    for (part, kind), array in found.items():
        if part == "keys":
            params["keys"] = layout.keys(array)
        elif part == "key_norm":
            params["key_scale"] = array
        elif part == "query_norm" and config.qk_norm:
            params["query_scale"] = array
        elif part == "query_norm" and config.query_norm == "batch":
            params[f"query_norm/{_NORM_LEAF[kind]}"] = layout.query(array)
        elif part.endswith("_norm"):
            params[f"{part}/{_NORM_LEAF[kind]}"] = array
        elif part in ("query", "gate", "output"):
            array = layout.query(array) if part == "query" else array
            params[f"{part}/{'kernel' if kind == 'weight' else 'bias'}"] = array.T
    return params


def _gate(found: Mapping[tuple[str, str], np.ndarray]) -> Gate:
    weight = found.get(("gate", "weight"))
    if weight is None:
        return "none"
    return "scalar" if weight.shape[0] == 1 else "silu"


def _query_norm(found: Mapping[tuple[str, str], np.ndarray]) -> QueryNorm:
    if ("query_norm", "weight") not in found:
        return "none"
    if ("query_norm", "mean") in found:
        return "batch"
    return "layer" if ("query_norm", "bias") in found else "rms"


def _check_leaves(imported: Imported) -> None:
    """Refuses leaves that are not those of the layer they were taken for."""
    layer = MemoryLayer(imported.config, imported.width)
    x = jnp.zeros((1, 1, imported.width))
    tables = imported.values, None, imported.expert_inputs
    expected: Any = jax.eval_shape(layer.init, jax.random.key(0), x, *tables)["params"]
    flat: dict[str, Any] = dict(flatten_dict(expected, sep="/"))
    wanted = {path: leaf.shape for path, leaf in flat.items()}
    given = {path: leaf.shape for path, leaf in imported.params.items()}
    differences = sorted(
        f"{path} is {given.get(path, 'missing')}, expected {wanted.get(path, 'no such leaf')}"
        for path in wanted.keys() | given.keys()
        if wanted.get(path) != given.get(path)
    )
    if differences:
        raise ValueError(f"the arrays make no memory of {imported.config}: {differences}")


def _neutral(config: MemoryConfig, width: int) -> Leaves:
    """Leaves that change nothing: where a bias or a scale is not among the arrays."""
    half, params = config.key_width // 2, {}
    if config.gate != "none":
        params["gate/bias"] = np.zeros(1 if config.gate == "scalar" else config.value_width)
    if config.gate == "silu" or config.value_width != width:
        params["output/bias"] = np.zeros(width)
    if config.output_norm == "layer":
        params["output_norm/bias"] = np.zeros(config.value_width)
    if config.qk_norm:
        params |= {"query_scale": np.ones(half), "key_scale": np.ones(half)}
    return {path: leaf.astype(np.float32) for path, leaf in params.items()}
