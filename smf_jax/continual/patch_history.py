"""What a trial of sparse finetuning has changed so far, from which each task's patch is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from smf_jax.params import Params
from smf_jax.sharding import unstack
from smf_jax.sparse.patch import Patch, apply_patch, make_patch, pool_change
from smf_jax.training.snapshot import rows_at


class PatchHistory:
    """What a trial has changed so far: makes the patch of each task without a copy of a table.

    The base's tables are shared by all trials; rows written since are kept beside them.
    """

    def __init__(self, base: Mapping[str, np.ndarray], fingerprint: str) -> None:
        """Starts at the leaves of the base that may change, on the host."""
        self._base = base
        self._mark = fingerprint
        self._parent = fingerprint
        self._rows: dict[str, dict[int, np.ndarray]] = {}
        self._scalars: dict[str, np.ndarray] = {}

    def take_up(self, patches: Sequence[Patch]) -> Params:
        """Replays the patches of an earlier run; returns the leaves they lead to.

        Raises ValueError if they do not fit the base or each other, bit for bit.
        """
        params: dict[str, Any] = dict(self._base)
        for patch in patches:
            params = apply_patch(params, patch, base=self._mark)
            self._remember(patch)
        return params

    def patch(
        self,
        task: str,
        rows: Mapping[str, tuple[np.ndarray, np.ndarray]],
        scalars: Mapping[str, np.ndarray],
    ) -> Patch:
        """The patch of a task, from the slots it wrote and their rows after it.

        Slots are ``(s,)`` and rows ``(s, v)``, by pool path; scalars are those after the task.
        """
        pools = {
            pool: pool_change(slots, self._old_rows(pool, slots), new, len(self._base[pool]))
            for pool, (slots, new) in rows.items()
        }
        changed = {
            path: (self._scalars.get(path, self._base[path]), new) for path, new in scalars.items()
        }
        patch = make_patch(pools, changed, task=task, base=self._mark, parent=self._parent)
        self._remember(patch)
        return patch

    def _old_rows(self, pool: str, slots: np.ndarray) -> np.ndarray:
        rows = self._base[pool][slots]
        written = self._rows.get(pool, {})
        for place, slot in enumerate(slots.tolist()):
            if slot in written:
                rows[place] = written[slot]
        return rows

    def _remember(self, patch: Patch) -> None:
        for pool, change in patch.pools.items():
            written = self._rows.setdefault(pool, {})
            written.update(zip(change.slots.tolist(), change.new, strict=True))
        self._scalars.update({path: change.new for path, change in patch.scalars.items()})
        self._parent = patch.fingerprint


def written_slots(state: Any, place: int) -> dict[str, np.ndarray]:
    """By pool path, the slots that one trial of stacked states has written since its task began."""
    return {
        pool: np.flatnonzero(unstack(written, place)) for pool, written in state.written.items()
    }


def written_rows(
    state: Any, place: int, slots: Mapping[str, np.ndarray]
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, np.ndarray]]:
    """What `PatchHistory.patch` is given: slots with the rows at them now, and the scalars."""
    rows = {
        pool: (of_pool, rows_at(state.tables[pool], place, of_pool))
        for pool, of_pool in slots.items()
    }
    scalars = {path: np.asarray(leaf) for path, leaf in unstack(state.scalars, place).items()}
    return rows, scalars
