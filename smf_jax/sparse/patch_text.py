"""A patch told to people and programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from smf_jax.sparse.patch import Patch


def describe_patch(patch: Patch) -> dict[str, Any]:
    """What a patch holds, for people and programs: its states, and by path how far its rows move.

    ``mean_move`` is the mean of ``‖new - old‖`` over the rows of a pool.
    """
    pools = {}
    for path, change in patch.pools.items():
        moves = np.linalg.norm(change.new.astype(float) - change.old.astype(float), axis=1)
        sizes = {"rows": int(change.slots.size), "table_slots": change.table_slots}
        pools[path] = {**sizes, "mean_move": float(moves.mean())}
    scalars = {path: [float(each.old), float(each.new)] for path, each in patch.scalars.items()}
    told = {"task": patch.task, "rows": patch.rows, "base": patch.base, "parent": patch.parent}
    return {**told, "state": patch.fingerprint, "pools": pools, "scalars": scalars}


def patch_text(told: Mapping[str, Any]) -> str:
    """What `describe_patch` gave, in a few lines."""
    lines = [f"{told['task']}, {told['rows']:,} rows"]
    lines += [f"  base {told['base'][:12]}, from {told['parent'][:12]} to {told['state'][:12]}"]
    for path, pool in told["pools"].items():
        rows = f"{pool['rows']:,} of {pool['table_slots']:,} slots"
        lines += [f"  {path}: {rows}; rows move by {pool['mean_move']:.4g} (norm, mean)"]
    for path, (old, new) in told["scalars"].items():
        lines += [f"  {path}: {old:.6g} to {new:.6g}"]
    return "\n".join(lines)
