"""The directory of a run: configuration, results, checkpoints; what a resume finds there."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from smf_jax import checkpoints
from smf_jax.continual.grid import Trial
from smf_jax.errors import require_writable
from smf_jax.params import Params
from smf_jax.sparse.patch import Patch

CONFIG, RESULTS, TRIALS = "config.json", "results.jsonl", "trials"
BASE, BACKGROUND = "base", "background"  # the second inside of the first
# Flags that say where and how a run goes, not what it computes.
NOT_COMPARED = frozenset(
    (
        "out",
        "resume",
        "overwrite",
        "shard",
        "base_cache",
        "eval_batch_size",
        "probe_rows",  # its name until 0.2
        "recount_batches",
        "profile",
        "download",
        "versions",
        "python",
    )
)


class RunDirectory:
    """One run on disk. Every write is whole or absent, so a killed run can be resumed."""

    def __init__(self, path: str, shard: str = "0/1") -> None:
        """Names the directory; nothing is touched.

        Args:
          path: of the run.
          shard: of the grid; each writes a results file of its own, so that several machines can
            share a directory.
        """
        self.path = Path(path)
        name = RESULTS if shard == "0/1" else f"results-{shard.replace('/', '-of-')}.jsonl"
        self._results = self.path / name

    def check(self, config: Mapping[str, Any], resume: bool, overwrite: bool) -> None:
        """Refuses a directory that exists, before anything is computed or touched.

        Raises:
          FileExistsError: if it exists and may neither be resumed nor replaced, or is no run.
          ValueError: if both are asked for, or the run to resume was given other flags.
        """
        if self.path == Path():
            raise ValueError("--out names no directory of its own; give one, as in runs/mine")
        if resume and overwrite:
            raise ValueError(
                "--resume goes on with a run and --overwrite replaces it; give one of them"
            )
        require_writable(str(self.path), "out")
        if not self.path.exists():
            return
        if not (resume or overwrite):
            raise FileExistsError(
                f"--out={self.path} exists; give --resume to go on with it, --overwrite to replace "
                "it, or another directory"
            )
        before = self._stored()
        if before is None and (not self.path.is_dir() or any(self.path.glob("[!.]*"))):
            raise FileExistsError(
                f"--out={self.path} exists and is no run, so it is neither resumed nor replaced; "
                "choose another directory or remove it yourself"
            )
        if resume and before is not None:
            self._compare(before, config)

    def open(self, config: Mapping[str, Any], resume: bool, overwrite: bool) -> None:
        """Makes the directory, or takes up the run in it; raises as `check`."""
        self.check(config, resume, overwrite)
        if self.path.exists() and overwrite:
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        _write_whole(self.path / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
        if self._results.is_file():
            # A line that a kill cut short is dropped; its task is run again.
            _write_whole(self._results, "".join(_whole_lines(self._results)))

    def _stored(self) -> dict[str, Any] | None:
        """The configuration of the run that is there, ``None`` if what is there is no run."""
        try:
            config = json.loads((self.path / CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        # A model's directory has a file of this name, too.
        is_run = isinstance(config, dict) and {"methods", "versions"} <= config.keys()
        return config if is_run else None

    def _compare(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        differing = sorted(
            name for name in {*before, *now} - NOT_COMPARED if before.get(name) != now.get(name)
        )
        if differing:
            told = ", ".join(
                f"--{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in differing
            )
            raise ValueError(f"--resume of {self.path} with other flags: {told}")

    def rows(self) -> list[dict[str, Any]]:
        """All rows of all shards, in the order of trials and tasks as they were written."""
        # Another machine may be writing a line of its shard this very moment.
        files = sorted(self.path.glob("results*.jsonl"))
        return [json.loads(line) for file in files for line in _whole_lines(file)]

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row to the results and waits until it is on disk; NaN becomes null."""
        clean = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in row.items()
        }
        with self._results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(clean) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def sidecar(self, name: str) -> Path:
        """Where this shard keeps a JSON file beside its results; other shards have their own."""
        stem = self._results.stem.replace(Path(RESULTS).stem, name, 1)
        return self.path / f"{stem}.json"

    def write_sidecar(self, name: str, content: Any) -> None:
        """Writes a JSON file beside the results, whole or not at all."""
        _write_whole(self.sidecar(name), json.dumps(content, indent=2) + "\n")

    def completed(self, trial: Trial) -> tuple[int, int | None]:
        """How far a trial has come.

        Returns:
          How many of its tasks have their rows and the checkpoints to go on from, and the step at
          which the next one failed, if it did.
        """
        mine = {row["task"]: row["failed_step"] for row in self.rows() if row["trial"] == trial.id}
        done = next(task for task in count() if mine.get(task, -1) is not None)
        kept = done
        if trial.method == "smf":
            kept = next((task for task in range(done) if not self._is_saved(trial, task)), done)
        while kept and not self._is_saved(trial, kept - 1):
            kept -= 1  # whole leaves go on from the last task alone
        return kept, mine.get(done) if kept == done else None

    def forget(self, trial: Trial, done: int) -> None:
        """Drops the rows of a trial from a task on, which is run again."""
        if not self._results.is_file():
            return
        lines = list(_whole_lines(self._results))
        rows = map(json.loads, lines)
        kept = [
            line
            for line, row in zip(lines, rows, strict=True)
            if row["trial"] != trial.id or row["task"] < done
        ]
        if kept != lines:
            _write_whole(self._results, "".join(kept))

    def _is_saved(self, trial: Trial, task: int) -> bool:
        return checkpoints.is_complete(self.task_path(trial, task))

    def task_path(self, trial: Trial, task: int) -> Path:
        """Where the checkpoint after a task is."""
        return self.path / TRIALS / trial.id / f"task_{task:02d}"

    def save_params(self, trial: Trial, task: int, params: Params, base: str) -> None:
        """Saves the trained leaves, or adapters, of a trial after a task."""
        kind = "adapters" if trial.method == "lora" else "leaves"
        self._save(trial, task, params, self._about(trial, task, base, kind))

    def drop_params_before(self, trial: Trial, task: int) -> None:
        """Removes the leaves of the task before, once those of this task and its row are kept."""
        if task and trial.method != "smf":  # patches are all needed
            shutil.rmtree(self.task_path(trial, task - 1), ignore_errors=True)

    def save_patch(self, trial: Trial, task: int, patch: Patch) -> None:
        """Saves the patch of a task."""
        arrays, metadata = patch.to_arrays()
        about = {**self._about(trial, task, patch.base, "patch"), **metadata}
        self._save(trial, task, arrays, about)

    def _save(
        self, trial: Trial, task: int, arrays: Mapping[str, Any], about: Mapping[str, Any]
    ) -> None:
        path = self.task_path(trial, task)
        if path.exists() and not self._is_saved(trial, task):
            shutil.rmtree(path)  # half of a checkpoint, which `completed` did not count
        checkpoints.save(path, arrays, about, overwrite=True)

    def load_params(self, trial: Trial, task: int) -> Params:
        """The trained leaves after a task."""
        return checkpoints.load(self.task_path(trial, task))[0]

    def load_patches(self, trial: Trial, tasks: int) -> list[Patch]:
        """The patches of a trial's first tasks."""
        paths = [self.task_path(trial, task) for task in range(tasks)]
        return [Patch.from_arrays(*checkpoints.load(path)) for path in paths]

    def _about(self, trial: Trial, task: int, base: str, kind: str) -> dict[str, Any]:
        return {
            "kind": kind,
            "format": checkpoints.FORMAT,
            "trial": trial.id,
            "task": task,
            "base": base,
            **{key: value for key, value in dataclasses.asdict(trial).items()},
        }


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _whole_lines(path: Path) -> Iterator[str]:
    """The lines of a results file but for those that a kill cut short."""
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n") and _is_json(line):
            yield line


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
