"""What golden vectors of other sources call things: a layout guessed from names and numbers.

For `smf_jax.interop.golden` alone, where a wrong guess shows as a difference. Weights are imported
by the explicit layouts of `smf_jax.interop.public_memories`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from smf_jax.interop.public_memories import LAYOUTS, Arrays, Leaves, MemoryLayout

# Weights and biases end as in `_KINDS`; tables and keys may go without.
_PARTS = {
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
_PART = {name: part for part, names in _PARTS.items() for name in names}
_KINDS = {
    "_weight": "scale",
    "_bias": "bias",
    "_w": "scale",
    "_b": "bias",
    "_running_mean": "mean",
    "_running_var": "variance",
    "": "scale",
}


def guess_layout(
    tensors: Arrays, seen: Arrays, meta: Mapping[str, Any]
) -> tuple[MemoryLayout, Leaves]:
    """The layout of one block, and its tensors, biases and scales of no effect among them.

    Args:
      tensors: weights of the block.
      seen: its ``indices`` and, where the file has them, ``scores`` and ``weights``.
      meta: what the file says of itself.

    Raises:
      ValueError: if tensors are not understood, naming them.
    """
    paths = {name: _path(name) for name in tensors}
    unknown = sorted(name for name, path in paths.items() if path is None)
    if unknown:
        raise ValueError(
            f"arrays {unknown} are no part of a memory, neither in the layouts of "
            f"{', '.join(LAYOUTS)} nor by another name that is known: {sorted(_PART)}"
        )
    by_path = {path: np.asarray(tensors[name]) for name, path in paths.items() if path}
    if len(by_path) < len(tensors):
        raise ValueError(f"two of the arrays {sorted(tensors)} are one part of a memory")
    choices = _choices(by_path, seen, meta)
    if choices["qk_norm"]:
        norms = {"query_norm/scale": "query_scale", "key_norm/scale": "key_scale"}
        paths = {name: norms.get(path or "", path) for name, path in paths.items()}
    neutral = _neutral(by_path, choices)
    known = {name: path for name, path in paths.items() if path}
    neutral = {path: array for path, array in neutral.items() if path not in known.values()}
    keys = by_path.get("keys", np.zeros(0))
    layout = MemoryLayout(
        source="a guess from names",
        tensors=known | {path: path for path in neutral},
        choices=lambda _: choices,
        half_major=keys.ndim == 4 and keys.shape[1] != 2,
    )
    return layout, {**tensors, **neutral}


def _path(name: str) -> str | None:
    plain = name.replace(".", "_")
    for ending, kind in _KINDS.items():
        part = _PART.get(plain.removesuffix(ending))
        if not plain.endswith(ending) or part is None:
            continue
        if part in ("keys", "values", "expert_inputs"):
            return part
        is_matrix = kind == "scale" and not part.endswith("_norm")
        return f"{part}/{'kernel' if is_matrix else kind}"
    return None


def _choices(by_path: Arrays, seen: Arrays, meta: Mapping[str, Any]) -> dict[str, Any]:
    """What the reads of a block, its tensors and the file's ``meta_json`` tell."""
    heads, reads = seen["indices"].shape[-2:]
    gate = by_path.get("gate/kernel")
    said = any("qk_norm" in key.lower() and bool(value) for key, value in meta.items())
    qk_norm = said or "key_norm/scale" in by_path
    query_norm = "none"
    if "query_norm/scale" in by_path and not qk_norm:
        query_norm = "layer" if "query_norm/bias" in by_path else "rms"
        query_norm = "batch" if "query_norm/mean" in by_path else query_norm
    return {
        "heads": heads,
        "reads": reads,
        "gate": "none" if gate is None else "scalar" if len(gate) == 1 else "silu",
        "query_norm": query_norm,
        "qk_norm": qk_norm,
        "score": "relu" if _is_relu(seen, meta) else "softmax",
        "output_norm": "layer" if "output_norm/scale" in by_path else "none",
        "experts": "expert_inputs" in by_path,
        "query_bias": "query/bias" in by_path,
        "norm_epsilon": next((v for key, v in meta.items() if "eps" in key.lower()), None),
    }


def _is_relu(seen: Arrays, meta: Mapping[str, Any]) -> bool:
    if "scores" not in seen or "weights" not in seen:
        return "relu" in json.dumps(meta).lower()
    sums = seen["weights"].sum(axis=-1)
    negative = (seen["scores"] < 0).any(where=seen["weights"] != 0)
    return not np.allclose(sums, 1, rtol=0, atol=1e-4) and not negative


def _neutral(by_path: Arrays, choices: Mapping[str, Any]) -> Leaves:
    """Leaves that change nothing, for biases and scales that a source does without."""
    leaves: Leaves = {}
    for part in ("gate", "output"):
        if f"{part}/kernel" in by_path:
            leaves[f"{part}/bias"] = np.zeros(len(by_path[f"{part}/kernel"]), np.float32)
    if choices["output_norm"] == "layer":
        leaves["output_norm/bias"] = np.zeros_like(by_path["output_norm/scale"])
    if choices["qk_norm"]:
        scale = np.ones(by_path["keys"].shape[-1], np.float32)
        leaves |= {"query_scale": scale, "key_scale": scale}
    return leaves
