"""The directory of a run: configuration, results, checkpoints; what a resume finds there."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from smf_jax import checkpoints
from smf_jax.checkpoints.files import write_text
from smf_jax.checkpoints.run_lock import RunLocks
from smf_jax.checkpoints.sealed_json import seal, unseal
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.inputs import Inputs, changed_inputs, follow_moves, inputs_of_sweep
from smf_jax.continual.methods import METHODS
from smf_jax.continual.results import ResultRow
from smf_jax.continual.trial import Trial
from smf_jax.continual.trial_group import CARRIED
from smf_jax.errors import require_writable
from smf_jax.params import Params
from smf_jax.paths import as_path, is_remote, remove
from smf_jax.sparse.patch import Patch, apply_patch
from smf_jax.version import __version__

CONFIG, RESULTS, TRIALS = "config.json", "results.jsonl", "trials"
BASE_SCORES = "base_scores.json"
BASE, BACKGROUND = "base", "background"  # the second inside of the first
# Flags that say where and how a run goes, not what it computes.
NOT_COMPARED = frozenset(
    (
        "out",
        "resume",
        "overwrite",
        "shard",
        "mesh",
        "table_layout",
        "distributed",
        "coordinator",
        "processes",
        "process",
        "base_cache",
        "eval_batch_size",
        "probe_rows",  # its name until 0.2
        "recount_batches",
        "profile",
        "save_every",
        "track",
        "dry_run",
        "calibrate",
        "download",
        "versions",
        "python",
        "inputs",  # compared by what they hold
    )
)
# What runs did before there was a setting, where its default is something else.
EARLIER: dict[str, Any] = {"memory_init": "normal", "background_formats": "none"}


class RunDirectory:
    """One run on disk. Every write is whole or absent, so a killed run can be resumed."""

    def __init__(self, path: str, shard: str = "0/1") -> None:
        """Names the directory; nothing is touched.

        Each shard writes a results file of its own, so that several machines can share a directory.
        """
        self.path = as_path(path)
        self.locks = RunLocks(self.path, shard)
        self._shard = shard
        self._is_share = not shard.endswith("/1")
        name = f"results-{shard.replace('/', '-of-')}.jsonl" if self._is_share else RESULTS
        self._results = self.path / name
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
        before = self._stored()
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
            self._compare(before, config.resolved().values(), self.inputs(config))
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
        versions = {each.__name__: each.__version__ for each in (jax, flax, optax)}
        told = {
            **config.resolved().values(),
            "versions": {"smf_jax": __version__, **versions},
            "python": platform.python_version(),
            "inputs": self.inputs(config),
        }
        write_text(self.path / CONFIG, json.dumps(seal(told), indent=2, sort_keys=True) + "\n")
        if self._results.is_file():
            # A line that a kill cut short is dropped; its task is run again.
            write_text(self._results, "".join(line for line, _ in _whole_lines(self._results)))
        for trial in trials:
            done, failed_step = self.completed(trial)
            if failed_step is None:
                self.forget(trial, done)

    def _clear(self, trials: Iterable[Trial], whole: bool) -> None:
        """Removes the run that is there but for its configuration, or what it has of the trials."""
        if whole:
            gone = [path for path in self.path.glob("[!.]*") if path.name != CONFIG]
        else:
            gone = [*self.path.glob(f"*-{self._shard.replace('/', '-of-')}.json*")]
            gone += [self.path / TRIALS / trial.id for trial in trials]
            for trial in trials:
                self.forget(trial, 0)
        # Results first: after a kill in between nothing that is left counts as done.
        for path in sorted(gone, key=lambda path: path.is_dir()):
            remove(path) if path.is_dir() else path.unlink(missing_ok=True)

    def _stored(self) -> dict[str, Any] | None:
        """The configuration of the run that is there, ``None`` if what is there is no run."""
        try:
            config = unseal((self.path / CONFIG).read_bytes(), str(self.path / CONFIG))
        except OSError:
            return None
        # A model's directory has a file of this name, too.
        return config if {"methods", "versions"} <= config.keys() else None

    def _compare(self, before: Mapping[str, Any], now: Mapping[str, Any], inputs: Inputs) -> None:
        # A setting that came with a later version was at its default before, and an earlier one
        # recorded no inputs, and float32 where no dtype was told.
        began: Inputs = before.get("inputs", {})
        before = {**before, **self.config().values()}  # with paths expanded
        before = follow_moves(before, began, inputs)
        before, now = ({**told, "dtype": told["dtype"] or "float32"} for told in (before, now))
        differing = sorted(
            name for name in {*before, *now} - NOT_COMPARED if before.get(name) != now.get(name)
        )
        told = ", ".join(
            f"--{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in differing
        )
        problems = [f"with other flags: {told}"] if differing else []
        if changed := changed_inputs(began, inputs):
            remedy = "restore these files, or give another --out"
            problems.append(
                f"with other content than it began with: {', '.join(changed)}; {remedy}"
            )
        if problems:
            how = f"--shard={self._shard}" if self._is_share else "--resume"
            raise ValueError(f"{how} of {self.path} {'; '.join(problems)}")

    def config(self) -> SweepConfig:
        """What the run was told; raises FileNotFoundError if the directory is no run."""
        stored = self._stored()
        if stored is None:
            raise FileNotFoundError(
                f"--run={self.path} is no run of a sweep; {self.path / CONFIG} does not tell of one"
            )
        known = SweepConfig().values()
        told = {name: each for name, each in stored.items() if name in known}
        return SweepConfig.of(**{**EARLIER, **told}).resolved()

    def as_it_began(self, config: SweepConfig) -> SweepConfig:
        """The configuration that goes on with the run, if one does.

        Settings that did not exist when it began are as they were then, unless they are given.
        """
        stored = self._stored() if config.run.resume or self._is_share else None
        if stored is None or config.run.overwrite:
            return config
        given, default = config.values(), SweepConfig().values()
        missing = [n for n in EARLIER if n not in stored and given[n] == default[n]]
        return config.with_values(**{name: EARLIER[name] for name in missing})

    def rows(self) -> list[dict[str, Any]]:
        """All rows of all shards, in the order of trials and tasks as they were written."""
        # Another machine may be writing a line of its shard this very moment.
        files = sorted(self.path.glob("results*.jsonl"))
        return [row for file in files for _, row in _whole_lines(file)]

    def append(self, row: ResultRow) -> None:
        """Adds a row to the results and waits until it is on disk; NaN becomes null."""
        clean = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in row.to_json().items()
        }
        line = json.dumps(seal(clean)) + "\n"
        if is_remote(self.path):  # object stores append nothing; a file has one writer
            lines = _whole_lines(self._results) if self._results.is_file() else ()
            write_text(self._results, "".join(old for old, _ in lines) + line)
            return
        with self._results.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def sidecar(self, name: str) -> Path:
        """Where this shard keeps a JSON file beside its results; other shards have their own."""
        stem = self._results.stem.replace(Path(RESULTS).stem, name, 1)
        return self.path / f"{stem}.json"

    def write_sidecar(self, name: str, content: Any) -> None:
        """Writes a JSON file beside the results, whole or not at all."""
        write_text(self.sidecar(name), json.dumps(seal(content), indent=2) + "\n")

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

    def forget(self, trial: Trial, done: int) -> None:
        """Drops the rows of a trial from a task on, which is run again.

        They may stand in the file of a share of another number; it is not at work, or it had them.
        """
        for file in self.path.glob("results*.jsonl"):
            lines = list(_whole_lines(file))
            kept = [line for line, row in lines if row["trial"] != trial.id or row["task"] < done]
            if len(kept) < len(lines):
                write_text(file, "".join(kept))

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

    def drop_params_before(self, trial: Trial, task: int) -> None:
        """Removes the parameters of the task before, once those of this task are kept."""
        if task and METHODS[trial.method].artefact != "patch":  # patches are all needed
            with suppress(OSError):
                remove(self.task_path(trial, task - 1))

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
        saved = {
            int(path.name.removeprefix("task_")): path
            for path in sorted((self.path / TRIALS / name).glob("task_*"))
            if checkpoints.is_complete(path)
        }
        chosen = max(saved, default=0) if task is None else task
        if chosen not in saved:
            raise FileNotFoundError(
                f"--task={chosen}: trial {name} has no checkpoint of it; it has tasks "
                f"{', '.join(map(str, sorted(saved))) or 'none'}"
            )
        about = checkpoints.read_metadata(saved[chosen])
        return Trial.from_row(about), chosen

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
        own = self.config().own(trial.method) if told is None else method.config(**told)
        return method.apply(own, base, saved)

    def about(self, trial: Trial, task: int, base: str, kind: str) -> dict[str, Any]:
        """The metadata of a checkpoint of a trial: what it is, and what decides its model."""
        return {
            "kind": kind,
            "format": checkpoints.FORMAT,
            "trial": trial.id,
            "task": task,
            "base": base,
            "settings": asdict(trial.own(self.config().own(trial.method))),
            **trial.to_row(),
        }


def _whole_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a results file with their rows, but for a last one that a kill cut short.

    Raises ValueError naming a line that is no row, or not the row that was written.
    """
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith((b"\n", b"\r")) and not _is_json(line[:-1]):
            return  # with a whole row before its end it was not cut, but changed
        if line.strip():
            row = unseal(line, f"{path}, line {number}")
            yield line.decode(), row


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
