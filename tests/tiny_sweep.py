"""A tiny base and sweeps on it, in this process, with as few compilations as can be."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments import sweep
from smf_jax import checkpoints
from smf_jax.checkpoints.manifest import fingerprint
from smf_jax.continual import engine as trials
from smf_jax.continual.config import SweepFlags
from smf_jax.continual.methods import make_trainer
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.stream_data import load_stream_data
from smf_jax.continual.trial_group import TrialGroup
from smf_jax.training.background import measure_background

TINY_BASE: dict[str, Any] = dict(
    known_facts=24,
    relations=4,
    vocabulary=1000,
    width=32,
    layers=1,
    heads=2,
    hidden_width=64,
    memory_layers="0",
    keys_per_half=16,
    memory_heads=2,
    steps=40,
    warmup_steps=5,
    learning_rate=3e-2,
    batch_size=24,
    text_batch_size=4,
)
TINY_SWEEP: dict[str, Any] = dict(
    slots="16,64",
    lr="smf:30/full:1e-3,1e-2/lora:0.3/replay:0.1",
    optimizer="full:adamw/lora:sgd/replay:sgd",
    tasks=2,
    facts_per_task=4,
    steps_per_task=6,
    batch_size=16,
    background_batches=4,
    background_batch_size=16,
    probe_limit=16,
    eval_batch_size=32,
    recount_batches=0,  # each would compile a program of its own
    lora_targets="query,key,value,output",  # the only block has a memory for its feed-forward
)
# Flags that decide neither a program nor what stands in it.
_NO_PROGRAM = ("out", "overwrite", "resume", "methods", "slots", "lr", "seeds", "shard", "rule")
_NO_PROGRAM += ("granularity", "optimizer", "keep_checkpoints", "profile", "recount_batches")
# Flags that decide what is probed, and nothing of how a trial trains.
_PROBES = ("probes", "probe_limit", "probe_shots", "probe_answer_tokens", "probe_chat")
_PROBES += ("ppl_window", "ppl_stride")


@contextmanager
def quick_compilation() -> Iterator[None]:
    """Compiles in half of the time; what a program computes is the same from run to run."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


@contextmanager
def on_devices(count: int) -> Iterator[None]:
    """Lets only so many of the fake devices be seen."""
    devices = jax.local_devices()[:count]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda: devices)
        yield


class Killed(BaseException):
    """The machine is gone: nothing of the program may catch it."""


class Sweeper:
    """Runs sweeps on a base, on some of the fake devices.

    Compiling takes most of a tiny sweep's time, so a trial group is kept and used again by every
    sweep that would compile the same programs. A group still refuses to trace its step twice.

    Attributes:
      groups: every trial group so far.
      trained: leaves on the device after each task, by run, trial and task.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.groups: dict[Any, TrialGroup] = {}
        self.trained: dict[tuple[str, str, int], dict[str, np.ndarray]] = {}
        self._key: Any = None
        self._materials: dict[str, Any] = {}
        self._backgrounds: dict[str, Any] = {}

    def flags(self, out: Path | str, **changes: Any) -> SweepFlags:
        """Those of the tiny sweep with changes."""
        return SweepFlags(**{"base": str(self.base), **TINY_SWEEP, "out": str(out), **changes})

    def __call__(
        self, out: Path | str, devices: int = 1, report: bool = False, **changes: Any
    ) -> int:
        """Runs a sweep; returns the status that the command would exit with."""
        save = trials._save
        with on_devices(devices), quick_compilation(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sweep, "load_stream_data", self._gather)
            patch.setattr(sweep, "measure_background", self._measure_background)
            patch.setattr(trials, "make_trainer", self._trainer)
            patch.setattr(trials, "TrialGroup", self._group)
            patch.setattr(trials, "_save", lambda *given: self._recorded(save, *given))
            if not report:
                patch.setattr(sweep, "write_report", lambda *_: "")
            return sweep.main(self.flags(out, **changes))

    def _gather(self, flags, base):
        key = repr(_decisive(flags))
        if key not in self._materials:
            self._materials[key] = load_stream_data(flags, base)
        return self._materials[key]

    def _measure_background(self, model, params, batches, **about):
        key = repr((fingerprint(params), fingerprint(batches._asdict()), about["corpus"]))
        if key not in self._backgrounds:
            self._backgrounds[key] = measure_background(model, params, batches, **about)
        return self._backgrounds[key]

    def _trainer(self, flags, base, trial, stream_data):
        decisive = {
            name: value
            for name, value in _decisive(flags).items()
            if name not in ("tasks", *_PROBES)
        }
        kept = flags.tasks if flags.keep_optimizer_state else None
        shapes = {batch.tokens.shape for batch in stream_data.examples}
        self._key = (repr(decisive), kept, repr(shapes), base.fingerprint(), trial.group)
        return make_trainer(flags, base, trial, stream_data)

    def _group(self, trainer, base, usage, mesh, eval_batch_size):
        key = (self._key, tuple(mesh.devices.flat))
        if key not in self.groups:
            self.groups[key] = TrialGroup(trainer, base, usage, mesh, eval_batch_size)
        return self.groups[key]

    def _recorded(self, save, sweep_, group, state, together, place, task):
        params = jax.device_get(group.trained(state, place))
        name = Path(sweep_.flags.out).name
        self.trained[name, together.trials[place].id, task] = params
        return save(sweep_, group, state, together, place, task)


def _decisive(flags: SweepFlags) -> dict[str, Any]:
    """The flags that decide what is read and what is compiled."""
    given = dataclasses.asdict(flags).items()
    return {name: value for name, value in given if name not in _NO_PROGRAM}


def rows_of(run: Path) -> list[dict[str, Any]]:
    """What a run measured, in the order of trials and tasks; times differ from run to run."""
    rows = RunDirectory(str(run)).rows()
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    return sorted(rows, key=lambda row: (row["trial"], row["task"]))


def checkpoints_of(run: Path) -> dict[str, Any]:
    """Digests and metadata of all checkpoints of a run by trial and task."""
    manifests = {
        str(path.relative_to(run)): checkpoints.read_manifest(path)
        for path in sorted(run.glob("trials/*/task_*"))
    }
    return {name: (each.leaves, each.metadata) for name, each in manifests.items()}


def content(directory: Path) -> dict[str, bytes | None]:
    """Every file below a directory with its bytes."""
    paths = sorted(directory.rglob("*"))
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in paths
    }


def write_lines(path: Path, *records: dict[str, Any] | str) -> Path:
    """Writes a JSONL file; a string is a line as it stands."""
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path
