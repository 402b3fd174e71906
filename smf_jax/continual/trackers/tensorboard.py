"""TensorBoard, by tensorboardX: event files without torch, TensorFlow or a server."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from smf_jax.continual.trackers.tracker import numbers_of


class TensorBoard:
    """A directory of event files for each trial, so that their curves lie over one another."""

    name: ClassVar[str] = "tensorboard"
    module: ClassVar[str] = "tensorboardX"
    package: ClassVar[str] = "tensorboardX"
    needs_disk: ClassVar[bool] = True

    def start(self, run: Path, trial: str, config: Mapping[str, Any]) -> None:
        """Opens ``tensorboard/TRIAL`` in the run, with the settings as a text."""
        self._config = config
        writer = importlib.import_module(self.module).SummaryWriter
        # Files are named by the second, and a run may go on within one.
        own = f".{time.time_ns()}"
        self._writer = writer(str(run / "tensorboard" / trial), filename_suffix=own)
        lines = (f"    {line}" for line in json.dumps(dict(config), indent=1).splitlines())
        self._writer.add_text("config", "\n".join(lines))  # indented, Markdown shows it as it is

    def log_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def log_row(self, step: int, row: Mapping[str, Any]) -> None:
        """Adds a point to the curves of a task's measurements, and writes what waits."""
        self.log_scalars(step, numbers_of(row, self._config))
        self._writer.flush()

    def finish(self) -> None:
        """Closes the file."""
        self._writer.close()
