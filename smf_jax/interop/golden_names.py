"""What golden vectors of other sources call things: a layout guessed from names and numbers.

For `smf_jax.interop.golden` alone, where a wrong guess shows as a difference.
"""

from __future__ import annotations

import json
import re
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
_KINDS = {"bias": "bias", "b": "bias", "running_mean": "mean", "running_var": "variance"}
_NAME = re.compile(r"(.+?)(?:_(weight|w|bias|b|running_mean|running_var))?")


def guess_layout(
    tensors: Arrays, seen: Arrays, meta: Mapping[str, Any]
) -> tuple[MemoryLayout, Leaves]:
    """The layout of one block, and its tensors, biases and scales of no effect among them.

    ``seen`` has its ``indices`` and, where the file has them, ``scores`` and ``weights``; ``meta``
    is what the file says of itself. A ValueError names the tensors that are not understood.
    """
    paths = {name: _path(name) for name in tensors}
    if unknown := sorted(name for name, path in paths.items() if not path):
        raise ValueError(
            f"arrays {unknown} are no part of a memory, neither in the layouts of "
            f"{', '.join(LAYOUTS)} nor by another name that is known: {sorted(_PART)}"
        )
    by_path = {path: np.asarray(tensors[name]) for name, path in paths.items()}
    if len(by_path) < len(tensors):
        raise ValueError(f"two of the arrays {sorted(tensors)} are one part of a memory")
    choices = _choices(by_path, seen, meta)
    # Leaves that change nothing, for biases and scales that a source does without.
    zeros = {"gate/bias": "gate/kernel", "output/bias": "output/kernel"}
    zeros["output_norm/bias"] = "output_norm/scale"
    neutral = {
        path: np.zeros(len(by_path[of]), np.float32) for path, of in zeros.items() if of in by_path
    }
    if choices["qk_norm"]:
        scales = {"query_norm/scale": "query_scale", "key_norm/scale": "key_scale"}
        paths = {name: scales.get(path, path) for name, path in paths.items()}
        neutral |= dict.fromkeys(scales.values(), np.ones(by_path["keys"].shape[-1], np.float32))
    neutral = {path: leaf for path, leaf in neutral.items() if path not in paths.values()}
    keys = by_path.get("keys", np.zeros(0))
    layout = MemoryLayout(
        source="a guess from names",
        tensors=paths | {path: path for path in neutral},
        choices=lambda _: choices,
        half_major=keys.ndim == 4 and keys.shape[1] != 2,
    )
    return layout, {**tensors, **neutral}


def _path(name: str) -> str:
    """The path of a leaf by its name in a file; empty if it is of no part."""
    found = _NAME.fullmatch(name.replace(".", "_"))
    part, kind = (_PART.get(found[1], ""), _KINDS.get(found[2], "scale")) if found else ("", "")
    if part in ("", "keys", "values", "expert_inputs"):
        return part
    return f"{part}/{'kernel' if kind == 'scale' and not part.endswith('_norm') else kind}"


def _choices(by_path: Arrays, seen: Arrays, meta: Mapping[str, Any]) -> dict[str, Any]:
    """What the reads of a block, its tensors and the file's ``meta_json`` tell."""
    heads, reads = seen["indices"].shape[-2:]
    gate = by_path.get("gate/kernel")
    said = any("qk_norm" in key.lower() and bool(value) for key, value in meta.items())
    qk_norm = said or "key_norm/scale" in by_path
    query_norm = "layer" if "query_norm/bias" in by_path else "rms"
    query_norm = "batch" if "query_norm/mean" in by_path else query_norm
    query_norm = query_norm if "query_norm/scale" in by_path and not qk_norm else "none"
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
