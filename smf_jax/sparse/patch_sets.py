"""Several patches: stacked, merged, compared."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from smf_jax.sparse.patch import Patch, PoolChange, make_patch, pool_change, shared_places


class SlotOverlap(NamedTuple):
    """How many slots of a pool two patches change, each of them and both."""

    first: int
    second: int
    shared: int


def stack_patches(patches: Sequence[Patch]) -> Patch:
    """Joins patches, each the parent of the next, into one that has the effect of all in turn."""
    _require_some(patches)
    for before, after in itertools.pairwise(patches):
        if after.parent != before.fingerprint:
            raise ValueError(
                f"patch {after.task!r} continues state {after.parent[:12]}, but {before.task!r} "
                f"leads to {before.fingerprint[:12]}; pass consecutive patches in order"
            )
    # It leads where the last one leads, so that the next patch of the chain continues it.
    return dataclasses.replace(_joined(patches), fingerprint=patches[-1].fingerprint)


def merge_patches(patches: Sequence[Patch]) -> Patch:
    """Joins patches made side by side on one state, as when tasks are taught in parallel.

    Applying the merged patch to that state writes every row and scalar that any of them wrote.
    Where two of them changed the same row or scalar, they must have written the same bits, so that
    nothing but the task's name depends on the order. A ValueError names every pool and slot where
    they did not, or tells that there is no patch or that their parents differ.
    """
    _require_some(patches)
    first = patches[0]
    if strangers := [p.task for p in patches if (p.base, p.parent) != (first.base, first.parent)]:
        raise ValueError(
            f"patches {strangers} were not made on the state of {first.task!r} "
            f"({first.parent[:12]}); merge patches of one parent, stack consecutive ones"
        )
    conflicts = [
        f"{a.task!r} and {b.task!r} ({'; '.join(found)})"
        for i, a in enumerate(patches)
        for b in patches[i + 1 :]
        if (found := shared_places(a, b, disagreeing=True))
    ]
    if conflicts:
        raise ValueError(
            f"patches disagree: {', '.join(conflicts)}; teach one task after the other instead"
        )
    return _joined(patches)


def compare_patches(first: Patch, second: Patch) -> dict[str, SlotOverlap]:
    """Counts, by pool path, the slots that two patches change: how far their tasks share rows."""
    none = np.zeros(0, np.int32)
    overlaps = {}
    for path in sorted(first.pools.keys() | second.pools.keys()):
        a, b = (p.pools[path].slots if path in p.pools else none for p in (first, second))
        overlaps[path] = SlotOverlap(a.size, b.size, np.intersect1d(a, b).size)
    return overlaps


def _require_some(patches: Sequence[Patch]) -> None:
    if not patches:
        raise ValueError("patches is empty; pass at least one")


def _joined(patches: Sequence[Patch]) -> Patch:
    """Each row and scalar before the first patch that changes it and after the last."""
    first, scalars = patches[0], {}
    for patch in patches:
        for path, change in patch.scalars.items():
            scalars[path] = (scalars.get(path, change)[0], change.new)
    pools = {
        path: _join_pool([patch.pools[path] for patch in patches if path in patch.pools])
        for path in {path for patch in patches for path in patch.pools}
    }
    task = "+".join(patch.task for patch in patches)
    return make_patch(pools, scalars, task=task, base=first.base, parent=first.parent)


def _join_pool(changes: Sequence[PoolChange]) -> PoolChange:
    slots, old, new, _ = zip(*changes, strict=True)
    slots, old, new = (np.concatenate(field) for field in (slots, old, new))
    distinct, first = np.unique(slots, return_index=True)
    last = slots.size - 1 - np.unique(slots[::-1], return_index=True)[1]
    return pool_change(distinct, old[first], new[last], changes[0].table_slots)
