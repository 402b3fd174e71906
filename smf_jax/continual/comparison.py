"""What differs between two checkpoints of a run.

Each stands for a whole model: a patch for the base with all patches of its trial up to it, trained
leaves for the base with these replaced. They are compared leaf by leaf and bit by bit, and pool by
pool for the slots that changed, beside the slots of every task.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smf_jax import checkpoints
from smf_jax.bases.base import PARAMS
from smf_jax.continual.run_directory import BASE
from smf_jax.continual.trial_group import CARRIED
from smf_jax.params import is_pool
from smf_jax.paths import as_path, resolved
from smf_jax.sparse.exactness import rows_differ, same_bits
from smf_jax.sparse.patch import Patch, apply_patch
from smf_jax.tables import aligned, is_implicit, unpacked

_BLOCK = 1 << 22


@dataclasses.dataclass(frozen=True)
class Model:
    """The model a checkpoint stands for."""

    path: Path  # the checkpoint
    metadata: Mapping[str, Any]  # what was saved with it
    base: str  # fingerprint of the base
    arrays: Mapping[str, np.ndarray]  # every leaf by path


@dataclasses.dataclass(frozen=True)
class LeafChange:
    """A leaf that is not bit-identical; the norms are None where it stands on one side only."""

    path: str
    first: str | None  # dtype and shape
    second: str | None
    norm: float | None  # of the leaf in A
    change_norm: float | None  # of B - A
    change_largest: float | None


@dataclasses.dataclass(frozen=True)
class PoolSlots:
    """The slots of a pool whose rows differ."""

    path: str
    table_slots: int
    changed: int
    change_norm_mean: float  # of a changed row
    change_norm_largest: float
    slots: list[int]


@dataclasses.dataclass(frozen=True)
class TaskOverlap:
    """How many of the changed slots a task wrote."""

    trial: str
    task: str  # task_00, task_01, …
    name: str
    path: str  # of the pool
    slots: int  # that the task wrote
    shared: int  # of these, how many differ between A and B


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All that `compare` finds."""

    first: str
    second: str
    same_base: bool
    leaves: int
    identical: int
    changed: list[LeafChange]
    pools: list[PoolSlots]
    overlap: list[TaskOverlap]


def compare(first: Path, second: Path, base: Path | None = None) -> Comparison:
    """Compares the models that two checkpoints stand for.

    Raises:
      FileNotFoundError: a checkpoint or the base of one is not there.
      ValueError: a checkpoint is damaged, or patches are missing between it and the base.
    """
    bases: dict[Path, tuple[dict[str, np.ndarray], str]] = {}
    a, b = (_load_model(path, base, bases) for path in (first, second))
    differing = [
        path
        for path in sorted(a.arrays.keys() | b.arrays.keys())
        if not _identical(a.arrays.get(path), b.arrays.get(path))
    ]
    pools = [
        _pool_slots(path, a.arrays[path], b.arrays[path])
        for path in sorted(a.arrays.keys() & b.arrays.keys())
        if is_pool(path) and a.arrays[path].shape == b.arrays[path].shape
    ]
    total = len(a.arrays.keys() | b.arrays.keys())
    return Comparison(
        first=str(first),
        second=str(second),
        same_base=a.base == b.base,
        leaves=total,
        identical=total - len(differing),
        changed=[_leaf_change(p, a.arrays.get(p), b.arrays.get(p)) for p in differing],
        pools=pools,
        overlap=_overlaps((a, b), pools),
    )


def to_text(found: Comparison) -> str:
    """A comparison as lines for a terminal."""
    lines = [f"A  {found.first}", f"B  {found.second}"]
    if not found.same_base:
        lines.append("the two have different bases")
    lines += ["", f"leaves: {found.identical:,} of {found.leaves:,} bit-identical"]
    lines += [f"  {_leaf_text(leaf)}" for leaf in found.changed]
    for pool in found.pools:
        share = pool.changed / pool.table_slots
        lines += ["", f"{pool.path}: {pool.changed:,} of {pool.table_slots:,} slots ({share:.2%})"]
        if not pool.changed:
            continue
        lines.append(
            f"  change of a row: norm {pool.change_norm_mean:.3g} on average, "
            f"{pool.change_norm_largest:.3g} at most"
        )
        written = [each for each in found.overlap if each.path == pool.path]
        for trial in dict.fromkeys(each.trial for each in written):
            lines.append(f"  of these, written by the tasks of {trial}:")
            lines += [
                f"    {each.task}  {each.shared:>7,} ({each.shared / pool.changed:6.1%}) "
                f"of its {each.slots:,} slots  {each.name}"
                for each in written
                if each.trial == trial
            ]
    return "\n".join(lines)


def _leaf_text(leaf: LeafChange) -> str:
    if leaf.first is None:
        return f"{leaf.path}  {leaf.second}, in B only"
    if leaf.second is None:
        return f"{leaf.path}  {leaf.first}, in A only"
    if leaf.norm is None or leaf.change_norm is None:
        return f"{leaf.path}  {leaf.first} against {leaf.second}"
    relative = f" ({leaf.change_norm / leaf.norm:.2%})" if leaf.norm else ""
    return (
        f"{leaf.path}  {leaf.second}  norm {leaf.norm:.4g}, changed by {leaf.change_norm:.3g}"
        f"{relative}, at most {leaf.change_largest:.3g}"
    )


def _load_model(
    path: Path, base: Path | None, bases: dict[Path, tuple[dict[str, np.ndarray], str]]
) -> Model:
    path = _checkpoint_at(as_path(path))
    metadata = checkpoints.read_metadata(path)
    kind = metadata.get("kind")
    if kind not in ("base", "patch", "leaves", "adapters"):
        raise ValueError(
            f"checkpoint {path}: kind={kind!r}, expected a base, a patch, leaves or adapters; "
            "give two checkpoints of a run, such as runs/NAME/base and runs/NAME/trials/ID/task_00"
        )
    home = path if kind == "base" else _checkpoint_at(as_path(base or _home_of_base(path)))
    home = resolved(home)
    if home not in bases:  # read once for both
        found = unpacked(checkpoints.load(home)[0])
        bases[home] = found, checkpoints.read_manifest(home).fingerprint
    arrays, fingerprint = bases[home]
    if kind != "base" and metadata["base"] != fingerprint:
        raise ValueError(
            f"checkpoint {path} belongs to base {metadata['base'][:12]}, {home} is "
            f"{fingerprint[:12]}; name the base it was trained from with --base"
        )
    if kind == "patch":
        for patch in _patches_up_to(path):
            arrays = apply_patch(arrays, patch)
    elif kind != "base":
        saved, beside = checkpoints.load(path)[0], "adapters/" if kind == "adapters" else ""
        own = {beside + name: x for name, x in saved.items() if not name.startswith(CARRIED)}
        arrays = {**arrays, **own}
    return Model(path, metadata, fingerprint, arrays)


def _checkpoint_at(path: Path) -> Path:
    """The leaves of a base, which lie beside its tokenizer, or the path itself."""
    return path / PARAMS if (path / PARAMS).is_dir() else path


def _home_of_base(path: Path) -> Path:
    """``runs/NAME/base`` of ``runs/NAME/trials/ID/task_00``."""
    home = resolved(path).parent.parent.parent / BASE
    if not home.exists():
        raise FileNotFoundError(
            f"checkpoint {path}: its base is expected at {home}, which does not exist; "
            "name it with --base"
        )
    return home


def _load_patch(path: Path) -> Patch:
    return Patch.from_arrays(*checkpoints.load(path))


def _patches_up_to(path: Path) -> list[Patch]:
    """The patches of a trial from the base's on, the one at a path the last."""
    found = {}
    for sibling in _tasks_beside(path):
        names = checkpoints.read_metadata(sibling).get("patch", {})
        found[names.get("fingerprint")] = sibling
    chain = [_load_patch(path)]
    while chain[0].parent != chain[0].base:
        if chain[0].parent not in found:
            raise ValueError(
                f"checkpoint {path}: the patch that leads to state {chain[0].parent[:12]} is not "
                f"in {path.parent}; restore all patches of the trial"
            )
        chain.insert(0, _load_patch(found[chain[0].parent]))
    return chain


def _tasks_beside(path: Path) -> list[Path]:
    return [
        sibling
        for sibling in sorted(resolved(path).parent.glob("task_*"))
        if checkpoints.is_complete(sibling)
    ]


def _identical(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    if a is b:  # one array of the base, shared by both models
        return True
    if a is None or b is None or (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    return same_bits(*aligned(a, b)[1:]) if is_implicit(a) else same_bits(a, b)


def _leaf_change(path: str, a: np.ndarray | None, b: np.ndarray | None) -> LeafChange:
    first, second = (None if x is None else f"{x.dtype}{list(x.shape)}" for x in (a, b))
    if a is None or b is None or a.shape != b.shape:
        return LeafChange(path, first, second, None, None, None)
    if is_implicit(a) or is_implicit(b):
        _, a, b = aligned(a, b)
    squares, change_squares, largest = 0.0, 0.0, 0.0
    for start in range(0, a.size, _BLOCK):  # float64 copies of one block, never of a whole leaf
        before = a.reshape(-1)[start : start + _BLOCK].astype(np.float64)
        change = b.reshape(-1)[start : start + _BLOCK].astype(np.float64) - before
        squares += float(before @ before)
        change_squares += float(change @ change)
        largest = max(largest, float(np.abs(change).max()))
    return LeafChange(path, first, second, squares**0.5, change_squares**0.5, largest)


def _pool_slots(path: str, a: np.ndarray, b: np.ndarray) -> PoolSlots:
    if a is b:
        slots = np.zeros(0, np.int64)
    elif is_implicit(a) or is_implicit(b):
        slots, old, new = aligned(a, b)
        slots = slots[rows_differ(old, new)]
    elif a.dtype != b.dtype:
        slots = np.arange(len(a))
    else:
        slots = np.flatnonzero(rows_differ(a, b))
    norms = np.linalg.norm(b[slots].astype(np.float64) - a[slots].astype(np.float64), axis=1)
    return PoolSlots(
        path,
        table_slots=len(a),
        changed=slots.size,
        change_norm_mean=float(norms.mean()) if slots.size else 0.0,
        change_norm_largest=float(norms.max(initial=0.0)),
        slots=slots.tolist(),
    )


def _overlaps(models: tuple[Model, ...], pools: list[PoolSlots]) -> list[TaskOverlap]:
    """Compares the changed slots with those of every task of the models' trials."""
    trials = {
        resolved(model.path).parent: model.path
        for model in models
        if model.metadata["kind"] == "patch"
    }
    overlaps = []
    for folder, path in trials.items():
        for place in _tasks_beside(path):
            patch = _load_patch(place)
            for pool in pools:
                if not pool.changed or pool.path not in patch.pools:
                    continue
                written = patch.pools[pool.path].slots
                shared = np.intersect1d(written, pool.slots).size
                overlaps.append(
                    TaskOverlap(
                        folder.name, place.name, patch.task, pool.path, written.size, shared
                    )
                )
    return overlaps
