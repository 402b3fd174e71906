"""Checkpoints of the trials of a run, one after each task: patches, parameters or adapters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from smf_jax import checkpoints
from smf_jax.checkpoints.files import write_text
from smf_jax.continual.methods import METHODS
from smf_jax.continual.run_config import read_config
from smf_jax.continual.trial import Trial
from smf_jax.continual.trial_group import CARRIED
from smf_jax.errors import blame_flag
from smf_jax.params import Params
from smf_jax.paths import remove
from smf_jax.sparse.patch import Patch, apply_patch

TRIALS, ANSWERS = "trials", "answers.jsonl"


class TaskCheckpoints:
    """What the trials of a run have saved after their tasks."""

    def __init__(self, path: Path) -> None:
        """Of the run at ``path``; nothing is touched."""
        self.path = path

    def _is_saved(self, trial: Trial, task: int) -> bool:
        return checkpoints.is_complete(self.task_path(trial, task))

    def task_path(self, trial: Trial, task: int) -> Path:
        """Where the checkpoint after a task is."""
        return self.path / TRIALS / trial.id / f"task_{task:02d}"

    def step_path(self, trial: Trial, task: int, step: int) -> Path:
        """Where the checkpoint after so many steps of a task is; see `StepCheckpoints`."""
        return self.path / TRIALS / trial.id / f"step_{task:02d}_{step:09d}"

    def save_params(self, trial: Trial, task: int, params: Params, base: str) -> None:
        """Saves the trained parameters, or adapters, of a trial after a task."""
        kind = METHODS[trial.method].artefact
        self._save(trial, task, params, self.about(trial, task, base, kind))

    def drop_params_before(self, trial: Trial, task: int, keep: int) -> None:
        """Removes parameters of earlier tasks: of this and those before it ``keep`` stay.

        Patches are all needed.
        """
        if METHODS[trial.method].artefact != "patch":
            for old in range(task - keep + 1):
                with suppress(OSError):
                    remove(self.task_path(trial, old))

    def save_patch(self, trial: Trial, task: int, patch: Patch) -> None:
        """Saves the patch of a task."""
        arrays, metadata = patch.to_arrays()
        about = {**self.about(trial, task, patch.base, "patch"), **metadata}
        self._save(trial, task, arrays, about)

    def _save(
        self, trial: Trial, task: int, arrays: Mapping[str, Any], about: Mapping[str, Any]
    ) -> None:
        path = self.task_path(trial, task)
        if path.exists() and not self._is_saved(trial, task):
            remove(path)  # half of a checkpoint, which `completed` did not count
        checkpoints.save(path, arrays, about, overwrite=True)

    def load_saved(self, trial: Trial, task: int) -> Params:
        """Everything that was saved after a task, what the next one needs included."""
        return checkpoints.load(self.task_path(trial, task))[0]

    def load_params(self, trial: Trial, task: int) -> Params:
        """The trained parameters, or adapters, after a task."""
        saved = self.load_saved(trial, task)
        return {path: leaf for path, leaf in saved.items() if not path.startswith(CARRIED)}

    def load_patches(self, trial: Trial, tasks: int) -> list[Patch]:
        """The patches of a trial's first tasks."""
        paths = [self.task_path(trial, task) for task in range(tasks)]
        return [Patch.from_arrays(*checkpoints.load(path)) for path in paths]

    def find_trial(self, name: str, task: int | None = None) -> tuple[Trial, int]:
        """The trial of an id, and the task (from 0) up to which it is asked for.

        The id may be empty where the run has only one trial; task ``None`` is the last one saved.

        Raises:
          ValueError: if no trial is named and the run has several.
          FileNotFoundError: if the run has no such trial, or no checkpoint of the task.
        """
        there = sorted(path.name for path in (self.path / TRIALS).glob("*"))
        if not name and len(there) != 1:
            raise ValueError(
                f"--run={self.path} has {len(there)} trials; name one with --trial: "
                + ", ".join(there)
            )
        name = name or there[0]
        if name not in there:
            raise FileNotFoundError(
                f"--trial={name}: {self.path} has no such trial; it has "
                f"{', '.join(there) or 'none'}"
            )
        saved = self._kept(name)
        chosen = max(saved, default=0) if task is None else task
        if chosen not in saved:
            raise FileNotFoundError(
                f"--task={chosen}: trial {name} has no checkpoint of it; it has tasks "
                f"{', '.join(map(str, sorted(saved))) or 'none'}"
            )
        about = checkpoints.read_metadata(saved[chosen])
        return Trial.from_row(about), chosen

    def kept_tasks(self, trial: Trial) -> tuple[int, ...]:
        """The tasks after which the model of a trial is kept."""
        return tuple(sorted(self._kept(trial.id)))

    def _kept(self, name: str) -> dict[int, Path]:
        return {
            int(number): path
            for path in sorted((self.path / TRIALS / name).glob("task_*"))
            # A save that was killed leaves others, which are whole too: the new one and the old.
            if (number := path.name.removeprefix("task_")).isdecimal()
            and checkpoints.is_complete(path)
        }

    def write_answers(self, trial: Trial, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Keeps what the models of a trial answer, over what was kept before; returns the file."""
        file = self.path / TRIALS / trial.id / ANSWERS
        write_text(file, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
        return file

    def read_answers(self, trial: Trial) -> list[dict[str, Any]]:
        """What `write_answers` kept; nothing where the trial was taught more tasks since then."""
        file = self.path / TRIALS / trial.id / ANSWERS
        if not file.is_file():
            return []
        with blame_flag(f"{file}: "):
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        asked, kept = {row["task"] for row in rows}, self.kept_tasks(trial)
        return rows if kept and max(asked, default=-1) == max(kept) else []

    def load_model(self, trial: Trial, task: int, base: Params, base_fingerprint: str) -> Params:
        """The parameters that a trial has come to: patches applied, adapters merged.

        Raises ValueError if a checkpoint is missing, damaged or of another base.
        """
        path = self.task_path(trial, task)
        about = checkpoints.read_metadata(path)
        if about["base"] != base_fingerprint:
            raise ValueError(
                f"checkpoint {path} belongs to base {about['base'][:12]}, this is base "
                f"{base_fingerprint[:12]}; give the base it was trained from"
            )
        method = METHODS[trial.method]
        if method.artefact == "patch":
            params: dict[str, Any] = dict(base)
            for patch in self.load_patches(trial, task + 1):
                params = apply_patch(params, patch, base=base_fingerprint)
            return params
        saved = {name: jnp.asarray(each) for name, each in self.load_params(trial, task).items()}
        told = about.get("settings")  # which earlier versions did not save
        own = read_config(self.path).own(trial.method) if told is None else method.config(**told)
        return method.apply(own, base, saved)

    def about(self, trial: Trial, task: int, base: str, kind: str) -> dict[str, Any]:
        """The metadata of a checkpoint of a trial: what it is, and what decides its model."""
        return {
            "kind": kind,
            "format": checkpoints.FORMAT,
            "trial": trial.id,
            "task": task,
            "base": base,
            "settings": asdict(trial.own(read_config(self.path).own(trial.method))),
            **trial.to_row(),
        }
