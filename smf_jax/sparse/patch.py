"""Patches: what a task taught, as the rows it changed.

Rows are compared bit for bit before anything is written, so that a patch never lands on a model
that it does not fit. States of a model are named by fingerprints, as commits are: the base by its
arrays, the state after a patch by the state before it (``parent``) and what the patch holds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from smf_jax.checkpoints.manifest import fingerprint, sha256_of_json, to_host
from smf_jax.params import is_pool
from smf_jax.sparse.exactness import rows_differ, same_bits
from smf_jax.tables import aligned, is_implicit, put
from smf_jax.typed_json import JsonObject

FORMAT = 1
_POOL_FIELDS = ("slots", "old", "new")
_MOST_NAMED = 8  # slots named in one line of an error


class PoolChange(NamedTuple):
    """Changed rows of one pool, at ascending, distinct int32 slots of ``N``; see `pool_change`."""

    slots: Int[np.ndarray, " s"]
    old: Float[np.ndarray, "s v"]
    new: Float[np.ndarray, "s v"]
    table_slots: int


class ScalarChange(NamedTuple):
    """A scalar parameter before and after."""

    old: Float[np.ndarray, ""]
    new: Float[np.ndarray, ""]


@dataclasses.dataclass(frozen=True, eq=False)
class Patch:
    """A change of memory rows and scalars, from one state of a model to the next."""

    task: str  # what it taught; names joined with "+" where patches were stacked or merged
    base: str  # fingerprint of the base
    parent: str  # fingerprint of the state it applies to, the base's or that of the patch before it
    fingerprint: str  # of the state it leads to
    pools: Mapping[str, PoolChange]  # changed rows by pool path; a pool without changes is absent
    scalars: Mapping[str, ScalarChange]  # changed scalars by path

    @property
    def rows(self) -> int:
        """Number of changed rows over all pools."""
        return sum(change.slots.size for change in self.pools.values())

    def to_arrays(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays by path and JSON metadata, as checkpoints store them."""
        names = {
            "format": FORMAT,
            "task": self.task,
            "parent": self.parent,
            "fingerprint": self.fingerprint,
            "pools": {path: change.table_slots for path, change in self.pools.items()},
            "scalars": sorted(self.scalars),
        }
        metadata = {"kind": "patch", "base": self.base, "patch": names}
        return _content(self.pools, self.scalars), metadata

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, Any], metadata: Mapping[str, Any], place: str = ""
    ) -> Patch:
        """Reads what `to_arrays` gave; a ValueError, after ``place``, if it is of another kind."""
        told = JsonObject(metadata, place)
        names = told.section("patch")
        ours = f"a patch of format {FORMAT}; load it with the version of smf_jax that wrote it"
        told.require(told.values.get("kind") == "patch", "kind", ours)
        names.require(names.get("format", int) == FORMAT, "format", ours)
        sizes, scalars = names.section("pools").all(int, least=1), names.many("scalars", str)
        wanted = {f"{path}/{field}" for path in sizes for field in _POOL_FIELDS}
        wanted |= {f"{path}/{field}" for path in scalars for field in ("old", "new")}
        if wanted != arrays.keys():
            odd = f"{sorted(wanted ^ arrays.keys())}"
            raise told.error(f"arrays {odd} are not those that its paths, pools and scalars name")

        def read(path: str, fields: Sequence[str]) -> dict[str, np.ndarray]:
            return {field: np.asarray(arrays[f"{path}/{field}"]) for field in fields}

        pools = {
            path: PoolChange(**read(path, _POOL_FIELDS), table_slots=table_slots)
            for path, table_slots in sizes.items()
        }
        changed = {path: ScalarChange(**read(path, ("old", "new"))) for path in scalars}
        task, parent, state = (names.need(n, str) for n in ("task", "parent", "fingerprint"))
        return cls(task, told.need("base", str), parent, state, pools, changed)


def pool_change(slots: Any, old: Any, new: Any, table_slots: int) -> PoolChange:
    """Brings the ``(s, v)`` rows a task touched, before and after it, into the form of a patch.

    ``slots`` are ``(s,)`` distinct ids in any order; unused places hold ``N`` or more and are
    dropped, and so are rows that end as they began. A ValueError tells of shapes or dtypes that
    differ, repeated or negative slots, and new rows that are not finite.
    """
    slots, old, new = np.asarray(slots), np.asarray(old), np.asarray(new)
    if slots.ndim != 1 or old.ndim != 2 or old.shape != new.shape or len(old) != slots.size:
        raise ValueError(
            f"slots {slots.shape}, old {old.shape}, new {new.shape}: expected (s,), (s, v), (s, v)"
        )
    if old.dtype != new.dtype:
        raise ValueError(f"old rows are {old.dtype}, new rows {new.dtype}: expected one dtype")
    if slots.size and slots.min() < 0:
        raise ValueError(f"slots: {slots.min()} is negative; expected ids of 0 … {table_slots - 1}")
    order = np.argsort(slots, kind="stable")
    order = order[slots[order] < table_slots]
    if (repeated := slots[order][1:][np.diff(slots[order]) == 0]).size:
        raise ValueError(f"slots: {_some(np.unique(repeated))} repeated; pass each slot once")
    order = order[rows_differ(old[order], new[order])]
    bad = slots[order][~np.isfinite(new[order]).all(axis=1)]
    if bad.size:
        raise ValueError(
            f"new rows of slots {_some(bad)} are not finite; keep the state before the failed step"
        )
    return PoolChange(slots[order].astype(np.int32), old[order], new[order], table_slots)


def make_patch(
    pools: Mapping[str, PoolChange],
    scalars: Mapping[str, tuple[Any, Any]] | None = None,
    *,
    task: str,
    base: str,
    parent: str | None = None,
) -> Patch:
    """Makes a patch of the rows, by pool path, and scalars that a task changed.

    Of scalars, by path, the old and the new value is given; those that did not change are dropped.
    ``parent`` is the ``fingerprint`` of the patch before; the base's if not given. A ValueError
    names a scalar that is none, or not finite.
    """
    pools = {path: pools[path] for path in sorted(pools) if pools[path].slots.size}
    changed = {}
    for path, (old, new) in sorted((scalars or {}).items()):
        old, new = np.asarray(old), np.asarray(new)
        if old.shape != () or new.shape != () or old.dtype != new.dtype:
            raise ValueError(
                f"{path}: {old.dtype}{list(old.shape)} to {new.dtype}{list(new.shape)}, expected "
                "two scalars of one dtype; a patch holds rows of pools and scalars only"
            )
        if not np.isfinite(new):
            raise ValueError(f"{path}: {new} is not finite; keep the state before the failed step")
        if old.tobytes() != new.tobytes():
            changed[path] = ScalarChange(old, new)
    parent = base if parent is None else parent
    state = sha256_of_json([parent, fingerprint(_content(pools, changed))])
    return Patch(task, base, parent, state, pools, changed)


def diff_params(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    *,
    task: str,
    base: str,
    parent: str | None = None,
    tables: Collection[str] = (),
) -> Patch:
    """Makes the patch that leads from one flat parameter dictionary to another of the same paths.

    Reads every leaf: the way to prove that nothing but rows and scalars changed, whatever
    trained them. ``base`` is the fingerprint of the base, ``parent`` that of the patch before;
    ``tables`` are paths of leaves ``(N, v)`` beside those of pools whose rows may change. A
    ValueError names every leaf that differs and is neither such a table nor a scalar.
    """
    if before.keys() != after.keys():
        raise ValueError(f"paths in one only: {sorted(before.keys() ^ after.keys())}")
    pools, scalars, other = {}, {}, []
    for path in sorted(before):
        old, new = before[path], after[path]
        if old.shape == new.shape and old.dtype == new.dtype and is_implicit(old):
            pools[path] = pool_change(*aligned(old, new), len(old))
            continue
        old, new = np.asarray(old), np.asarray(new)
        if old.shape == new.shape and old.dtype == new.dtype and same_bits(old, new):
            continue
        if old.shape != new.shape or old.dtype != new.dtype:
            other.append(path)
        elif is_pool(path) or path in tables:
            slots = np.flatnonzero(rows_differ(old, new))
            pools[path] = pool_change(slots, old[slots], new[slots], len(old))
        elif old.shape == ():
            scalars[path] = (old, new)
        else:
            other.append(path)
    if other:
        raise ValueError(
            f"{', '.join(other)} changed: a patch holds rows of pools and scalars only; "
            "save these leaves as a checkpoint"
        )
    return make_patch(pools, scalars, task=task, base=base, parent=parent)


# --- using -------------------------------------------------------------------------------------


def apply_patch(
    params: Mapping[str, Any], patch: Patch, *, base: str | None = None
) -> dict[str, Any]:
    """Parameters with a patch's new rows and scalars, of the kind (NumPy or JAX) they were.

    The old rows must be those of ``params``, bit for bit, which stay as they are. If ``base`` is
    given, the fingerprint of the base under them, it has to be the patch's. A ValueError names
    every pool and scalar that does not fit; nothing is written then.
    """
    if base is not None and base != patch.base:
        raise ValueError(
            f"patch {patch.task!r} belongs to base {patch.base[:12]}, this is base {base[:12]}; "
            "apply it to the base it was made on"
        )
    return _exchange(params, patch, "old", "new")


def revert_patch(
    params: Mapping[str, Any], patch: Patch, later: Sequence[Patch] = ()
) -> dict[str, Any]:
    """Takes a patch back: the rows and scalars it changed are those before it, bit for bit.

    Patches applied ``later`` may touch other slots only; ``params`` stay as they are. A ValueError
    names the later patches in the way and their slots, or, where the rows are not those the patch
    wrote, the pools; nothing is written then.
    """
    blocking = [
        f"{other.task!r} ({'; '.join(shared)})"
        for other in later
        if (shared := shared_places(patch, other))
    ]
    if blocking:
        raise ValueError(
            f"patch {patch.task!r} cannot be reverted: later patches changed the same places: "
            f"{', '.join(blocking)}; revert those first, the latest first"
        )
    return _exchange(params, patch, "new", "old")


def shared_places(first: Patch, second: Patch, *, disagreeing: bool = False) -> list[str]:
    """Names the pools with slots, and the scalars, that both patches change, or disagree on."""
    found = []
    for path in sorted(first.pools.keys() & second.pools.keys()):
        a, b = first.pools[path], second.pools[path]
        slots, in_a, in_b = np.intersect1d(a.slots, b.slots, return_indices=True)
        if disagreeing:
            slots = slots[rows_differ(a.new[in_a], b.new[in_b])]
        if slots.size:
            found.append(f"{path} slots {_some(slots)}")
    for path in sorted(first.scalars.keys() & second.scalars.keys()):
        a, b = first.scalars[path].new, second.scalars[path].new
        if not disagreeing or a.tobytes() != b.tobytes():
            found.append(path)
    return found


def _content(
    pools: Mapping[str, PoolChange], scalars: Mapping[str, ScalarChange]
) -> dict[str, np.ndarray]:
    arrays = {
        f"{path}/{field}": getattr(change, field)
        for path, change in pools.items()
        for field in _POOL_FIELDS
    }
    for path, change in scalars.items():
        arrays |= {f"{path}/old": change.old, f"{path}/new": change.new}
    return to_host(arrays)


def _exchange(params: Mapping[str, Any], patch: Patch, here: str, there: str) -> dict[str, Any]:
    """Replaces the rows and scalars ``here`` by those ``there``, after all of them were checked."""
    problems = []
    for path, change in patch.pools.items():
        table, want, slots = params.get(path), getattr(change, here), change.slots
        shape = (change.table_slots, want.shape[1])
        if table is None:
            problems.append(f"{path}: missing")
        elif tuple(table.shape) != shape or table.dtype != want.dtype:
            found = f"{path}: {table.dtype}{list(table.shape)}"
            problems.append(f"{found}, expected {want.dtype}{list(shape)}")
        elif (wrong := slots[rows_differ(np.asarray(table[slots]), want)]).size:
            differ = f"{wrong.size} of {slots.size} rows differ"
            problems.append(f"{path}: {differ} (slots {_some(wrong)})")
    for path, change in patch.scalars.items():
        want, have = getattr(change, here), np.asarray(params.get(path))
        if path not in params:
            problems.append(f"{path}: missing")
        elif (have.dtype, have.tobytes()) != (want.dtype, want.tobytes()):
            problems.append(f"{path}: {have}, expected {want}")
    if problems:
        raise ValueError(
            f"patch {patch.task!r} does not fit, its {here} rows are expected:\n  "
            + "\n  ".join(problems)
            + f"\nBring the model to state {patch.parent if here == 'old' else patch.fingerprint}."
        )
    changed = dict(params)
    for path, change in patch.pools.items():
        changed[path] = put(changed[path], change.slots, getattr(change, there))
    for path, change in patch.scalars.items():
        kind = jnp.asarray if isinstance(changed[path], jax.Array) else np.asarray
        changed[path] = kind(getattr(change, there))
    return changed


def _some(slots: np.ndarray) -> str:
    named = ", ".join(str(slot) for slot in slots[:_MOST_NAMED])
    return named if slots.size <= _MOST_NAMED else f"{named}, … {slots.size} in all"
