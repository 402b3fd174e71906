"""Several patches: stacked, merged, compared."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from smf_jax.sparse.patch import Patch, PoolChange, make_patch, pool_change, shared_places


class SlotOverlap(NamedTuple):
    """How many slots of a pool two patches change.

    Attributes:
      first: slots that the first patch changes.
      second: slots that the second patch changes.
      shared: slots that both change.
    """

    first: int
    second: int
    shared: int


def stack_patches(patches: Sequence[Patch]) -> Patch:
    """Joins consecutive patches into one that has the effect of all in turn.

    Args:
      patches: in the order of their making, each the parent of the next.

    Returns:
      A patch from the state before the first to the state after the last.

    Raises:
      ValueError: if there is none, or one does not continue the one before it.
    """
    if not patches:
        raise ValueError("patches is empty; pass at least one")
    for before, after in itertools.pairwise(patches):
        if after.parent != before.fingerprint:
            raise ValueError(
                f"patch {after.task!r} continues state {after.parent[:12]}, but {before.task!r} "
                f"leads to {before.fingerprint[:12]}; pass consecutive patches in order"
            )
    pools = _join_pools(patches)
    scalars = {}
    for patch in patches:
        for path, change in patch.scalars.items():
            first = scalars.get(path, change)
            scalars[path] = (first[0], change.new)
    stacked = make_patch(
        pools,
        scalars,
        task="+".join(patch.task for patch in patches),
        base=patches[0].base,
        parent=patches[0].parent,
    )
    # It leads where the last one leads, so that the next patch of the chain continues it.
    return dataclasses.replace(stacked, fingerprint=patches[-1].fingerprint)


def merge_patches(patches: Sequence[Patch]) -> Patch:
    """Joins patches made side by side on one state, as when tasks are taught in parallel.

    Applying the merged patch to that state writes every row and scalar that any of them wrote.
    Where two of them changed the same row or scalar, they must have written the same bits.

    Args:
      patches: of one base and one parent, in any order.

    Returns:
      A patch on the same parent; it does not depend on the order but for its task's name.

    Raises:
      ValueError: if there is none, their parents differ, or naming every pool and slot where two
        of them wrote different rows.
    """
    if not patches:
        raise ValueError("patches is empty; pass at least one")
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
    pools = _join_pools(patches)  # where slots are shared, their rows agree
    scalars = {path: change for patch in patches for path, change in patch.scalars.items()}
    task = "+".join(patch.task for patch in patches)
    return make_patch(pools, scalars, task=task, base=first.base, parent=first.parent)


def compare_patches(first: Patch, second: Patch) -> dict[str, SlotOverlap]:
    """Counts the slots that two patches change, each and both: how far their tasks share rows.

    Args:
      first: a patch.
      second: another, of a memory of the same shape.

    Returns:
      A `SlotOverlap` for every pool that either patch changes, by pool path.
    """
    none = np.zeros(0, np.int32)
    overlaps = {}
    for path in sorted(first.pools.keys() | second.pools.keys()):
        a, b = (p.pools[path].slots if path in p.pools else none for p in (first, second))
        overlaps[path] = SlotOverlap(a.size, b.size, np.intersect1d(a, b).size)
    return overlaps


def _join_pools(patches: Sequence[Patch]) -> dict[str, PoolChange]:
    """Each slot's row before the first patch that changes it and after the last."""
    return {
        path: _join_pool([patch.pools[path] for patch in patches if path in patch.pools])
        for path in {path for patch in patches for path in patch.pools}
    }


def _join_pool(changes: Sequence[PoolChange]) -> PoolChange:
    slots = np.concatenate([change.slots for change in changes])
    old = np.concatenate([change.old for change in changes])
    new = np.concatenate([change.new for change in changes])
    distinct, first = np.unique(slots, return_index=True)
    last = slots.size - 1 - np.unique(slots[::-1], return_index=True)[1]
    return pool_change(distinct, old[first], new[last], changes[0].table_slots)
