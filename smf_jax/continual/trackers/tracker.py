"""What a tracker is: four methods that follow one trial. Nothing of a run depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol


class Tracker(Protocol):
    """Follows one trial. What it raises is told once, and never stops a run."""

    name: ClassVar[str]  # of ``--track``
    module: ClassVar[str]  # that it imports, when it starts
    package: ClassVar[str]  # that has it, as pip knows it
    # Whether it writes files into the run's directory, which an object store could not hold.
    needs_disk: ClassVar[bool]

    def start(self, run: Path, trial: str, config: Mapping[str, Any]) -> None:
        """Begins, or goes on with, a trial of the run in a directory; offline if nothing is said.

        ``config`` has the settings of the run and of the trial, by flag.
        """

    def log_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Takes numbers at a step, counted through all tasks of the trial."""

    def log_row(self, step: int, row: Mapping[str, Any]) -> None:
        """Takes a task's line of ``results.jsonl``, after its last step."""

    def finish(self) -> None:
        """Writes whatever waits; nothing follows."""


class LoggedRun:
    """What trackers have in common whose library gives a run object with ``log`` and ``finish``."""

    _run: Any  # of the library
    _config: Mapping[str, Any]  # as `Tracker.start` was given it

    def log_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Logs numbers of a step."""
        self._run.log(dict(values), step=step)

    def log_row(self, step: int, row: Mapping[str, Any]) -> None:
        """Logs a task's measurements."""
        self._run.log(numbers_of(row, self._config), step=step)

    def finish(self) -> None:
        """Writes what waits."""
        self._run.finish()


def numbers_of(row: Mapping[str, Any], trial: Mapping[str, Any]) -> dict[str, float]:
    """The measurements in a result row: its numbers, less what only names the ``trial``."""
    return {
        f"task/{key}": float(value)
        for key, value in row.items()
        if key not in trial and isinstance(value, int | float) and not isinstance(value, bool)
    }
