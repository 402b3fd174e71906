"""Weights & Biases, offline: ``wandb sync`` sends what it left, where that is wanted."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from smf_jax.continual.trackers.tracker import LoggedRun


class Wandb(LoggedRun):
    """A run for each trial, in a group named as the sweep's directory; WANDB_MODE may go online."""

    name: ClassVar[str] = "wandb"
    module: ClassVar[str] = "wandb"
    package: ClassVar[str] = "wandb"
    needs_disk: ClassVar[bool] = True

    def start(self, run: Path, trial: str, config: Mapping[str, Any]) -> None:
        """Begins a run in the sweep's directory; trials side by side have one each."""
        self._config = config
        run.mkdir(parents=True, exist_ok=True)
        # Of the trial and of where it lies, so that what a resume logs joins what was logged.
        name = hashlib.sha256(f"{run.absolute()} {trial}".encode()).hexdigest()[:16]
        wandb = importlib.import_module(self.module)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "smf_jax"),
            group=run.name,
            name=trial,
            id=name,
            dir=str(run),
            config=dict(config),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow" if os.environ.get("WANDB_MODE") == "online" else None,
            reinit="create_new",
            settings=wandb.Settings(console="off"),
        )
