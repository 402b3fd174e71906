"""Trackio: a local database and dashboard, ``trackio show``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from smf_jax.continual.trackers.tracker import LoggedRun


class Trackio(LoggedRun):
    """A run of Trackio for each trial, in a project named as the sweep's directory.

    It lies where Trackio keeps its own, unless its variables of the environment say otherwise.
    """

    name: ClassVar[str] = "trackio"
    module: ClassVar[str] = "trackio"
    package: ClassVar[str] = "trackio"
    needs_disk: ClassVar[bool] = False

    def start(self, run: Path, trial: str, config: Mapping[str, Any]) -> None:
        """Begins a run, or goes on with that of the same trial."""
        self._config = config
        quiet: dict[str, Any] = dict(embed=False, auto_log_gpu=False, auto_log_cpu=False)
        told = dict(project=run.name, name=trial, config=dict(config), resume="allow")
        self._run = importlib.import_module(self.module).init(**told, **quiet)
