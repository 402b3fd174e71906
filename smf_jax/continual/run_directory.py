"""The directory of a run: configuration, results, checkpoints; what a resume finds there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from smf_jax.checkpoints.files import write_text
from smf_jax.checkpoints.run_lock import RunLocks
from smf_jax.checkpoints.sealed_json import seal, unseal
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.inputs import Inputs, inputs_of_sweep
from smf_jax.continual.methods import METHODS
from smf_jax.continual.results import ResultRow
from smf_jax.continual.results_files import ResultsFiles
from smf_jax.continual.run_config import (
    CONFIG,
    at_its_beginning,
    read_config,
    require_same,
    stored_config,
    write_config,
)
from smf_jax.continual.task_checkpoints import TRIALS, TaskCheckpoints
from smf_jax.continual.trial import Trial
from smf_jax.errors import require_writable
from smf_jax.paths import as_path, remove

BASE_SCORES = "base_scores.json"
BASE, BACKGROUND = "base", "background"  # the second inside of the first


class RunDirectory(ResultsFiles, TaskCheckpoints):
    """One run on disk. Every write is whole or absent, so a killed run can be resumed."""

    def __init__(self, path: str, shard: str = "0/1") -> None:
        """Names the directory; nothing is touched.

        Each shard writes a results file of its own, so that several machines can share a directory.
        """
        ResultsFiles.__init__(self, as_path(path), shard)
        TaskCheckpoints.__init__(self, self.path)
        self.locks = RunLocks(self.path, shard)
        self._inputs: Inputs | None = None

    def check(self, config: SweepConfig) -> None:
        """Refuses a directory that exists, before anything is computed or touched.

        Raises:
          FileExistsError: if it exists and may neither be resumed nor replaced, or is no run.
          ValueError: if both are asked for, the run to go on with was given other flags or inputs,
            or its files are damaged.
        """
        told = config.run
        if self.path == Path():
            raise ValueError("--out names no directory of its own; give one, as in runs/mine")
        if told.resume and told.overwrite:
            raise ValueError(
                "--resume goes on with a run and --overwrite replaces it; give one of them"
            )
        require_writable(str(self.path), "out")
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.glob("[!.]*"))):
            return  # what is hidden are the locks of those that start, and half of a file
        before = stored_config(self.path)
        joins = self._is_share and before is not None
        if not (told.resume or told.overwrite or joins):
            raise FileExistsError(
                f"--out={self.path} exists; give --resume to go on with it, --overwrite to replace "
                "it, or another directory"
            )
        if before is None:
            raise FileExistsError(
                f"--out={self.path} exists and is no run, so it is neither resumed nor replaced; "
                "choose another directory or remove it yourself"
            )
        if told.resume or self._is_share:
            how = f"--shard={self.shard}" if self._is_share else "--resume"
            require_same(self.path, config, self.inputs(config), how)
            self.rows()  # or damage would be found after the base was made

    def inputs(self, config: SweepConfig) -> Inputs:
        """What the run reads, with the digests of the first time that this is asked."""
        if self._inputs is None:
            self._inputs = inputs_of_sweep(config)
        return self._inputs

    def replaces_all(self, config: SweepConfig) -> bool:
        """Whether nothing that is there is kept: a share replaces only what is its own."""
        return config.run.overwrite and not self._is_share

    def open(self, config: SweepConfig, trials: Sequence[Trial] = ()) -> None:
        """Makes the directory, or takes up the run in it; raises as `check`.

        What an earlier run has left of the trials beyond the tasks to go on from is dropped. Where
        others may write this directory, its `locks` are to be had.
        """
        self.check(config)
        self.path.mkdir(parents=True, exist_ok=True)
        if config.run.overwrite:
            self._clear(trials, self.replaces_all(config))
        write_config(self.path, config, self.inputs(config))
        self.drop_cut_line()
        for trial in trials:
            done, failed_step = self.completed(trial)
            if failed_step is None:
                self.forget(trial, done)

    def append(self, row: ResultRow) -> None:
        """Adds a row to the results; OSError if others may be at work on the trials by now."""
        self.locks.require()
        super().append(row)

    def _clear(self, trials: Iterable[Trial], whole: bool) -> None:
        """Removes the run that is there but for its configuration, or what it has of the trials."""
        if whole:
            gone = [path for path in self.path.glob("[!.]*") if path.name != CONFIG]
        else:
            gone = [*self.path.glob(f"*{self._ending}.json*")]
            gone += [self.path / TRIALS / trial.id for trial in trials]
            for trial in trials:
                self.forget(trial, 0)
        # Results first: after a kill in between nothing that is left counts as done.
        for path in sorted(gone, key=lambda path: path.is_dir()):
            remove(path) if path.is_dir() else path.unlink(missing_ok=True)

    def config(self) -> SweepConfig:
        """What the run was told; raises FileNotFoundError if the directory is no run."""
        return read_config(self.path)

    def as_it_began(self, config: SweepConfig) -> SweepConfig:
        """The configuration that goes on with the run, if one does; see `at_its_beginning`."""
        stored = stored_config(self.path) if config.run.resume or self._is_share else None
        if stored is None or config.run.overwrite:
            return config
        return at_its_beginning(config, stored)

    def write_base_scores(self, scores: Mapping[str, Any]) -> None:
        """Keeps what the untouched base scores, for whoever goes on with the run."""
        text = json.dumps(seal(scores), indent=2, sort_keys=True)
        write_text(self.path / BASE_SCORES, text + "\n")

    def base_scores(self) -> dict[str, Any] | None:
        """What `write_base_scores` kept, ``None`` in runs of versions that did not."""
        path = self.path / BASE_SCORES
        return unseal(path.read_bytes(), str(path)) if path.is_file() else None

    def completed(self, trial: Trial) -> tuple[int, int | None]:
        """How many tasks of a trial have their rows and the checkpoints to go on from.

        The second is the step at which the next task failed, if it did.
        """
        mine = {row["task"]: row["failed_step"] for row in self.rows() if row["trial"] == trial.id}
        done = next(task for task in count() if mine.get(task, -1) is not None)
        kept = done
        if METHODS[trial.method].artefact == "patch":
            kept = next((task for task in range(done) if not self._is_saved(trial, task)), done)
        while kept and not self._is_saved(trial, kept - 1):
            kept -= 1  # whole parameters go on from the last task alone
        return kept, mine.get(done) if kept == done else None
