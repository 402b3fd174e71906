"""Reads the golden vectors of public PyTorch implementations into this library's layout.

Two layouts exist. ``flat``: the query weight is ``(h·kd, d)``, head-major with the halves inside a
head, and keys are ``(h·2·n, kd/2)`` flat, halves inside a head. ``half-major``: the query weight is
``(2·h·kd/2, d)`` with the halves outside, and keys are ``(h, n, 2, kd/2)``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from smf_jax.memory.layer import MemoryConfig

Leaves = dict[str, np.ndarray]


class Block(NamedTuple):
    """One memory block: its configuration, leaves by path, and the gradients of these."""

    config: MemoryConfig
    width: int
    leaves: Leaves
    gradients: Leaves


def load(path: Path) -> tuple[Leaves, dict[str, Any]]:
    """All arrays of a file, the table in float32, and its ``meta_json``."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    meta = json.loads(str(arrays.pop("meta_json")))
    if "values" in arrays:
        arrays["values"] = arrays["values"].astype(np.float32)
    return arrays, meta


def dense_rows(arrays: Leaves, table_slots: int) -> np.ndarray:
    """The table's gradient from its touched rows."""
    gradient = np.zeros((table_slots, arrays["grad_values"].shape[1]), np.float32)
    gradient[arrays["grad_values_rows"]] = arrays["grad_values"]
    return gradient


def flat_block(arrays: Leaves, meta: dict[str, Any], prefix: str = "") -> Block:
    """A block in the flat, head-major layout; ``prefix`` picks one of several in a file."""
    heads, n, width = meta["mem_heads"], meta["mem_n_keys"], meta["mem_k_dim"]
    config = MemoryConfig(
        keys_per_half=n,
        heads=heads,
        reads=meta["mem_knn"],
        key_width=width,
        value_width=arrays["values"].shape[1],
        gate="silu" if meta["swilu_projection"] else "none",
    )

    def imported(start: str) -> Leaves:
        sources = {
            "query/kernel": ("query_w", np.transpose),
            "query/bias": ("query_b", np.asarray),
            "keys": ("keys", lambda keys: keys.reshape(heads, 2, n, width // 2)),
            "gate/kernel": ("swilu_w", np.transpose),
            "gate/bias": ("swilu_b", np.asarray),
            "output/kernel": ("value_proj_w", np.transpose),
            "output/bias": ("value_proj_b", np.asarray),
        }
        return {
            path: convert(arrays[start + name])
            for path, (name, convert) in sources.items()
            if start + name in arrays
        }

    return Block(config, meta["input_dim"], imported(prefix), imported(f"{prefix}grad_"))


def half_major_block(arrays: Leaves, meta: dict[str, Any]) -> Block:
    """A block in the half-major layout, with one norm for the queries of all heads and halves."""
    heads, n, half, d = meta["heads"], meta["num_keys"], meta["dim_head"], meta["dim"]
    config = MemoryConfig(
        keys_per_half=n,
        heads=heads,
        reads=meta["topk"],
        key_width=2 * half,
        value_width=d,
        gate="none",
        query_norm="layer",
        query_bias=False,
    )

    def imported(start: str) -> Leaves:
        weight = arrays[f"{start}to_queries_weight"].reshape(2, heads, half, d)
        return {
            "query/kernel": weight.transpose(3, 1, 0, 2).reshape(d, -1),
            "keys": arrays[f"{start}keys"].transpose(0, 2, 1, 3),
            "query_norm/scale": arrays[f"{start}norm_weight"],
            "query_norm/bias": arrays[f"{start}norm_bias"],
        }

    return Block(config, d, imported(""), imported("grad_"))
