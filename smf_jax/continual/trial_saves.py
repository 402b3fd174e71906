"""What a trial leaves after each task: the patch, or the parameters where its method has none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import numpy as np

from smf_jax.continual.methods.method import settings_of
from smf_jax.continual.patch_history import PatchHistory, written_rows, written_slots
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.trial import Trial
from smf_jax.continual.trial_group import TrialGroup
from smf_jax.params import Params
from smf_jax.processes import are_several
from smf_jax.tables import on_host


class TrialSaves:
    """Writes and reads what trials of one group come to."""

    def __init__(
        self,
        run: RunDirectory,
        group: TrialGroup,
        base: Params,
        fingerprint: str,
        patched: Iterable[Trial],
    ) -> None:
        """Starts at the base's parameters; what ``patched`` trials learn is kept as patches."""
        self._run, self._group, self._fingerprint = run, group, fingerprint
        self._histories = {trial: _history(group, base, fingerprint, trial) for trial in patched}

    def restore(self, trial: Trial, task: int) -> Params:
        """The changed parameters that an earlier run has left before a task."""
        if trial not in self._histories:
            return self._run.load_saved(trial, task - 1)
        return self._take_up(trial, task)

    def replay(self, trial: Trial, task: int) -> None:
        """Takes up the patches before a task whose parameters are come by otherwise."""
        if trial in self._histories:
            self._take_up(trial, task)

    def _take_up(self, trial: Trial, task: int) -> Params:
        return self._histories[trial].take_up(self._run.load_patches(trial, task))

    def to_save(
        self, state: Any, place: int, trial: Trial, task: int, name: str
    ) -> tuple[int | None, Callable[[], None]]:
        """The rows of a task's patch, for methods that have one, and what saves what it changed.

        ``state`` is stacked, the trial's at ``place``; ``name`` is the task's.
        """
        if trial not in self._histories:
            saved = self._group.saved(state, place)
            if not are_several():
                # Copies: the buffers are the next task's.
                saved = jax.tree.map(np.array, saved)
            return None, partial(self._run.save_params, trial, task, saved, self._fingerprint)
        rows, scalars = written_rows(state, place, written_slots(state, place))
        patch = self._histories[trial].patch(name, rows, scalars)
        return patch.rows, partial(self._run.save_patch, trial, task, patch)


def _history(group: TrialGroup, base: Params, fingerprint: str, trial: Trial) -> PatchHistory:
    """Of a trial that has changed nothing yet."""
    state = jax.eval_shape(group.trainer.begin, base, settings_of(trial, 1))
    paths = jax.eval_shape(group.trainer.trained, state)
    return PatchHistory({path: on_host(base[path]) for path in paths}, fingerprint)
