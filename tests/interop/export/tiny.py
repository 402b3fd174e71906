"""Patches for the tests of exports."""

from __future__ import annotations

import numpy as np

from smf_jax.checkpoints.manifest import fingerprint
from smf_jax.params import Params
from smf_jax.sparse.patch import Patch, apply_patch, make_patch, pool_change


def patches_of(params: Params, tasks: int = 2) -> list[Patch]:
    """Consecutive patches of all tables and, in the first, of one scale."""
    base_fingerprint, parent, made = fingerprint(params), None, []
    pools = sorted(path for path in params if path.endswith("/values"))
    current = {path: np.asarray(leaf) for path, leaf in params.items()}
    for task in range(tasks):
        rng = np.random.default_rng(task)
        changes = {}
        for path in pools:
            slots = rng.permutation(len(current[path]))[:5]
            new = rng.standard_normal((5, current[path].shape[1])).astype(np.float32)
            changes[path] = pool_change(slots, current[path][slots], new, len(current[path]))
        scalars = {
            path: (current[path], current[path] + np.float32(1))
            for path in list(params)
            if path.endswith("layer_1/alpha") and task == 0
        }
        patch = make_patch(
            changes, scalars, task=f"task {task}?", base=base_fingerprint, parent=parent
        )
        parent, current = patch.fingerprint, apply_patch(current, patch)
        made.append(patch)
    return made
