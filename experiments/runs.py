"""The directory of a run: configuration, results, checkpoints; what a resume finds there."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.grid import Trial
from smf_jax import checkpoints
from smf_jax.sparse.patch import Patch, apply_patch, make_patch, pool_change
from smf_jax.training.state import Flat

CONFIG, RESULTS, TRIALS, BASE = "config.json", "results.jsonl", "trials", "base"
# Flags that say where and how a run goes, not what it computes.
NOT_COMPARED = frozenset(
    (
        "out",
        "resume",
        "overwrite",
        "shard",
        "base_cache",
        "probe_rows",
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

    def check(self, resume: bool, overwrite: bool) -> None:
        """Refuses a directory that exists, before anything is computed.

        Raises:
          FileExistsError: if it exists and may neither be resumed nor replaced.
          ValueError: if both are asked for.
        """
        if resume and overwrite:
            raise ValueError(
                "--resume goes on with a run and --overwrite replaces it; give one of them"
            )
        if self.path.exists() and not (resume or overwrite):
            raise FileExistsError(
                f"--out={self.path} exists; give --resume to go on with it, --overwrite to replace "
                "it, or another directory"
            )

    def open(self, config: Mapping[str, Any], resume: bool, overwrite: bool) -> None:
        """Makes the directory, or takes up the run in it.

        Raises:
          FileExistsError: as `check`.
          ValueError: as `check`, or if the run to resume was given other flags.
        """
        self.check(resume, overwrite)
        stored = self.path / CONFIG
        if self.path.exists() and overwrite:
            shutil.rmtree(self.path)
        if stored.is_file():
            self._compare(json.loads(stored.read_text(encoding="utf-8")), config)
        self.path.mkdir(parents=True, exist_ok=True)
        _write_whole(stored, json.dumps(config, indent=2, sort_keys=True) + "\n")
        if self._results.is_file():
            # A line that a kill cut short is dropped; its task is run again.
            lines = self._results.read_text(encoding="utf-8").splitlines(keepends=True)
            _write_whole(self._results, "".join(line for line in lines if _is_whole(line)))

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
        files = sorted(self.path.glob("results*.jsonl"))
        lines = [line for f in files for line in f.read_text(encoding="utf-8").splitlines()]
        return [json.loads(line) for line in lines]

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

    def completed(self, trial: Trial) -> tuple[int, bool]:
        """How many tasks of a trial have both their row and their checkpoint, and if it failed."""
        mine = {row["task"]: row for row in self.rows() if row["trial"] == trial.id}
        done = 0
        while done in mine:
            if mine[done]["failed_step"] is not None:
                return done, True
            done += 1
        # With --keep_checkpoints=last only the last one is needed.
        while done and not checkpoints.is_complete(self.task_path(trial, done - 1)):
            done -= 1
        return done, False

    def task_path(self, trial: Trial, task: int) -> Path:
        """Where the checkpoint after a task is."""
        return self.path / TRIALS / trial.id / f"task_{task:02d}"

    def save_leaves(self, trial: Trial, task: int, leaves: Flat, base: str, keep_all: bool) -> None:
        """Saves the trained leaves, or adapters, of a trial after a task."""
        kind = "adapters" if trial.method == "lora" else "leaves"
        checkpoints.save(
            self.task_path(trial, task),
            leaves,
            self._about(trial, task, base, kind),
            overwrite=True,
        )
        if not keep_all and task:
            shutil.rmtree(self.task_path(trial, task - 1), ignore_errors=True)

    def save_patch(self, trial: Trial, task: int, patch: Patch) -> None:
        """Saves the patch of a task."""
        arrays, metadata = patch.to_arrays()
        about = {**self._about(trial, task, patch.base, "patch"), **metadata}
        checkpoints.save(self.task_path(trial, task), arrays, about, overwrite=True)

    def load_leaves(self, trial: Trial, task: int) -> Flat:
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


class PatchHistory:
    """What a trial has changed so far: makes the patch of each task without a copy of a table.

    The base's tables are shared by all trials; rows written since are kept beside them.
    """

    def __init__(self, base: Mapping[str, np.ndarray], fingerprint: str) -> None:
        """Starts at the base.

        Args:
          base: leaves of the base that may change, on the host.
          fingerprint: of the base.
        """
        self._base = base
        self._mark = fingerprint
        self._parent = fingerprint
        self._rows: dict[str, dict[int, np.ndarray]] = {}
        self._scalars: dict[str, np.ndarray] = {}

    def take_up(self, patches: Sequence[Patch]) -> Flat:
        """Replays the patches of an earlier run; returns the leaves they lead to.

        Raises:
          ValueError: if they do not fit the base or each other, bit for bit.
        """
        leaves: dict[str, Any] = dict(self._base)
        for patch in patches:
            leaves = apply_patch(leaves, patch, base=self._mark)
            self._remember(patch)
        return leaves

    def patch(
        self,
        task: str,
        rows: Mapping[str, tuple[np.ndarray, np.ndarray]],
        scalars: Mapping[str, np.ndarray],
    ) -> Patch:
        """The patch of a task, from the slots it wrote and their rows after it.

        Args:
          task: its name.
          rows: by pool path, ``(s,)`` slots and ``(s, v)`` rows.
          scalars: trained scalars after the task by path.
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


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _is_whole(line: str) -> bool:
    if not line.endswith("\n"):
        return False
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
