"""Small models, and patches of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from smf_jax.sparse.patch import Patch, diff_params

POOL, OTHER = "memory/pool_2/values", "memory/pool_5/values"
ALPHA = "memory/layer_2/alpha"
KERNEL = "layers_0/attention/query/kernel"
BASE = "b" * 64


def make_params(dtype=np.float32) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        POOL: rng.normal(size=(64, 8)).astype(dtype),
        OTHER: rng.normal(size=(16, 8)).astype(dtype),
        ALPHA: np.float32(0.01),
        KERNEL: rng.normal(size=(8, 8)).astype(dtype),
    }


def teach(params: dict, seed: int, slots: dict[str, list[int]], alpha: float | None = None) -> dict:
    """Training as far as a patch can tell: new rows at these slots."""
    rng = np.random.default_rng(seed)
    taught = dict(params)
    for path, ids in slots.items():
        taught[path] = np.array(params[path])
        taught[path][ids] = rng.normal(size=(len(ids), 8))
    if alpha is not None:
        taught[ALPHA] = np.float32(alpha)
    return taught


def bits(params: dict) -> dict[str, tuple]:
    return {
        path: (np.asarray(x).dtype, np.asarray(x).shape, np.asarray(x).tobytes())
        for path, x in params.items()
    }


def make_chain(*slots: dict[str, list[int]]) -> tuple[list[dict], list[Patch]]:
    """The states and patches of tasks taught one after the other; state 0 is the base."""
    states, patches, parent = [make_params()], [], BASE
    for task, ids in enumerate(slots):
        states.append(teach(states[-1], task + 1, ids, alpha=0.1 * task))
        patches.append(diff_params(*states[-2:], task=f"task {task}", base=BASE, parent=parent))
        parent = patches[-1].fingerprint
    return states, patches
