"""The trackers of a run: who of ``--track`` follows a trial, and what is told once a task."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from smf_jax.continual.results import ResultRow
from smf_jax.continual.trackers import TRACKERS
from smf_jax.continual.trackers.tracker import Tracker
from smf_jax.continual.trial import Trial
from smf_jax.paths import as_path, is_remote
from smf_jax.progress import say


def check_trackers(track: str, out: str) -> tuple[type[Tracker], ...]:
    """The trackers that ``--track`` names, none of them imported yet.

    Raises:
      ValueError: one that is unknown, whose package is not installed, or that cannot write to
        ``--out``, naming the flag and what to do.
    """
    names = list(dict.fromkeys(filter(None, map(str.strip, track.split(",")))))
    for name in names:
        if name not in TRACKERS:
            raise ValueError(
                f"--track={track}: {name} is unknown; choose from {', '.join(TRACKERS)}, several "
                "with commas"
            )
        found = importlib.util.find_spec(TRACKERS[name].module)
        if found is None or found.origin is None:  # a directory that it left is no package
            raise ValueError(
                f"--track={track}: {name} needs a package: pip install {TRACKERS[name].package}"
            )
        if TRACKERS[name].needs_disk and is_remote(as_path(out)):
            raise ValueError(
                f"--track={track}: {name} writes to disks only, and --out={out} is none; give a "
                "directory, or leave it out"
            )
    return tuple(TRACKERS[name] for name in names)


class Tracking:
    """All trackers of a run, each of which follows every trial until it fails."""

    def __init__(
        self,
        trackers: Sequence[type[Tracker]] = (),
        run: Path = Path(),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Of the run in a directory, with its settings by flag."""
        self._kinds = list(trackers)
        self._run = run
        self._config = config or {}
        self._followers: dict[tuple[str, Trial], Tracker] = {}

    @contextmanager
    def of(self, trials: Sequence[Trial]) -> Iterator[None]:
        """Trials are followed while the block runs, however it ends."""
        for kind in list(self._kinds):
            for trial in trials:
                config = {**self._config, **trial.to_row(), "trial": trial.id}
                self._try(kind, partial(self._start, kind, trial, config))
        try:
            yield
        finally:
            for follower in self._followers.values():
                self._try(type(follower), follower.finish)
            self._followers.clear()

    def log_task(self, row: ResultRow, losses: np.ndarray) -> None:
        """Tells what a task of a trial came to: the loss of each of its steps, and its row."""
        first = row.task * row.steps
        for (_, trial), follower in self._followers.items():
            if trial == row.trial:
                self._try(type(follower), partial(_log, follower, first, row, losses))

    def _start(self, kind: type[Tracker], trial: Trial, config: Mapping[str, Any]) -> None:
        follower = kind()
        follower.start(self._run, trial.id, config)
        self._followers[kind.name, trial] = follower

    def _try(self, kind: type[Tracker], told: Callable[[], None]) -> None:
        """Tells a tracker; one that fails is told nothing more, and why is said."""
        if kind not in self._kinds:
            return
        try:
            told()
        except Exception as error:  # of any type: the run does not depend on it
            self._kinds.remove(kind)
            say(f"--track={kind.name} failed and is told nothing more ({error!r:.200})")


def _log(follower: Tracker, first: int, row: ResultRow, losses: np.ndarray) -> None:
    for position, loss in enumerate(losses.tolist()):
        follower.log_scalars(first + position, {"loss": loss})
    follower.log_row(first + len(losses) - 1, row.to_json())
