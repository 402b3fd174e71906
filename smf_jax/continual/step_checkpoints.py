"""Step checkpoints: where the trials of a run stand within a task, for a resume to go on from.

A trial has one that is whole, and one that is being written while it trains on. They are
checkpoints like all others, so that one whose writing was cut short is never read.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from smf_jax import checkpoints
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.step_log import Begun
from smf_jax.continual.trial import Trial
from smf_jax.continual.writer import Writer
from smf_jax.paths import remove

_STATE = "state/"  # before the paths of the state


class StepCheckpoints:
    """Those of the trials that this process runs."""

    def __init__(self, run: RunDirectory, base: str, writer: Writer) -> None:
        """Of a run, and the fingerprint of its base; nothing is touched."""
        self._run = run
        self._base = base
        self._writer = writer

    def find(self, trial: Trial, task: int) -> Path | None:
        """The last one of a trial within a task; all others of the trial are removed.

        Those may be of a task that is done or has to be done again, or half written.
        """
        found = None
        for path in self._all(trial):
            if found is None and _is_of(task, path) and checkpoints.is_complete(path):
                found = path
            else:
                remove(path)
        return found

    def load(self, path: Path) -> tuple[Begun, float]:
        """What a trial had come to, and the seconds that it took; ValueError if it is damaged."""
        try:
            arrays, about = checkpoints.load(path)
            if about["base"] != self._base:
                raise ValueError(f"checkpoint {path} belongs to another base")
        except ValueError as error:
            raise ValueError(
                f"{error} Or remove {path}: its task is then run again from its start."
            ) from None
        state = {name.removeprefix(_STATE): each for name, each in arrays.items()}
        losses, selected = state.pop("losses"), state.pop("selected")
        return Begun(about["step"], state, losses, selected), about["seconds"]

    def write(
        self, task: int, begun: Mapping[Trial, Begun], seconds: Mapping[Trial, float]
    ) -> None:
        """Writes one of each trial, in the background, and then removes those before.

        Waits until what was written last is whole. Raises OSError if that could not be saved.
        """
        self._writer.do(partial(self._write, task, begun, seconds))

    def drop(self, trial: Trial) -> None:
        """Removes those of a trial whose task has ended."""
        for path in self._all(trial):
            remove(path)

    def _write(
        self, task: int, begun: Mapping[Trial, Begun], seconds: Mapping[Trial, float]
    ) -> None:
        self._run.locks.require()  # those of another that took over would go
        for trial, each in begun.items():
            state = {_STATE + path: leaf for path, leaf in each.state.items()}
            arrays = {**state, "losses": each.losses, "selected": each.selected}
            about = self._run.about(trial, task, self._base, "step")
            about |= {"step": each.step, "seconds": seconds[trial]}
            path = self._run.step_path(trial, task, each.step)
            checkpoints.save(path, arrays, about, overwrite=True)
            for other in self._all(trial):
                if other != path:
                    remove(other)

    def _all(self, trial: Trial) -> list[Path]:
        """Whatever there is of a trial, the latest first."""
        return sorted(self._run.step_path(trial, 0, 0).parent.glob("step_*"), reverse=True)


def _is_of(task: int, path: Path) -> bool:
    return path.name.split("_")[1] == f"{task:02d}"
