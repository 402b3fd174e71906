"""Several patches: stacked, merged, compared."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from smf_jax.sparse.patch import Patch, PoolChange, make_patch, pool_change, shared_places

# Whose row stands where patches made side by side disagree: nobody's, the first's or the last's of
# them, or their mean.
MergePolicy = Literal["refuse", "first", "last", "mean"]
MERGE_POLICIES: tuple[str, ...] = get_args(MergePolicy)


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


def merge_patches(patches: Sequence[Patch], policy: MergePolicy = "refuse") -> Patch:
    """Joins patches made side by side on one state, as when tasks are taught in parallel.

    Applying the merged patch to that state writes every row and scalar that any of them wrote.
    Where two of them changed the same row or scalar, they must have written the same bits, so that
    nothing but the task's name depends on the order; otherwise the policy decides: ``first`` or
    ``last`` in the order given, or the ``mean`` of those that changed it, in float64. A ValueError
    names every pool and slot that is refused, or tells that there is no patch, that the policy is
    unknown, or that the patches' parents differ.
    """
    _require_some(patches)
    if policy not in MERGE_POLICIES:
        raise ValueError(f"policy={policy!r} is unknown; choose from {', '.join(MERGE_POLICIES)}")
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
    if conflicts and policy == "refuse":
        others = ", ".join(MERGE_POLICIES[1:])
        raise ValueError(
            f"patches disagree: {', '.join(conflicts)}; teach one task after the other, or merge "
            f"them by another policy than refuse ({others})"
        )
    return _joined(patches, policy)


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


def rebased(patch: Patch, parent: str) -> Patch:
    """The patch after another state than its own, where the rows that it changes are the same."""
    return make_patch(patch.pools, patch.scalars, task=patch.task, base=patch.base, parent=parent)


def chained(patches: Sequence[Patch], base: str) -> list[Patch]:
    """The patches, each the child of the one before it, the first of the base.

    Those that followed another state before are `rebased`; the others are the very same objects.
    """
    chain: list[Patch] = []
    for patch in patches:
        parent = chain[-1].fingerprint if chain else base
        chain.append(patch if patch.parent == parent else rebased(patch, parent))
    return chain


def _joined(patches: Sequence[Patch], policy: MergePolicy = "last") -> Patch:
    """Each row and scalar before the first patch that changes it and, by default, after the last.

    No policy but ``last`` is for patches that were made one after the other.
    """
    first, changes = patches[0], {}
    for patch in patches:
        for path, change in patch.scalars.items():
            changes.setdefault(path, []).append(change)
    scalars = {
        path: (of_path[0].old, _of_policy([change.new for change in of_path], policy))
        for path, of_path in changes.items()
    }
    pools = {
        path: _join_pool([patch.pools[path] for patch in patches if path in patch.pools], policy)
        for path in {path for patch in patches for path in patch.pools}
    }
    task = "+".join(patch.task for patch in patches)
    return make_patch(pools, scalars, task=task, base=first.base, parent=first.parent)


def _of_policy(values: Sequence[np.ndarray], policy: MergePolicy) -> np.ndarray:
    """The first, the last or the mean of values of a scalar; of equal ones the very bits."""
    if policy == "mean":
        return np.mean(values, dtype=np.float64).astype(values[0].dtype)
    return values[0] if policy == "first" else values[-1]


def _bits(rows: np.ndarray) -> np.ndarray:
    return rows.view(f"u{rows.dtype.itemsize}")


def _join_pool(changes: Sequence[PoolChange], policy: MergePolicy) -> PoolChange:
    slots, old, new, _ = zip(*changes, strict=True)
    slots, old, new = (np.concatenate(field) for field in (slots, old, new))
    distinct, first, of, times = np.unique(
        slots, return_index=True, return_inverse=True, return_counts=True
    )
    if policy == "mean":
        sums = np.zeros((distinct.size, new.shape[1]))
        np.add.at(sums, of, new.astype(np.float64))
        means = (sums / times[:, None]).astype(new.dtype)
        # What all agree on, and one of one, stays to the bit.
        differs = np.zeros(distinct.size, bool)
        np.logical_or.at(differs, of, np.any(_bits(new) != _bits(new[first][of]), axis=1))
        rows = np.where(differs[:, None], means, new[first])
    elif policy == "first":
        rows = new[first]
    else:
        rows = new[slots.size - 1 - np.unique(slots[::-1], return_index=True)[1]]
    return pool_change(distinct, old[first], rows, changes[0].table_slots)
