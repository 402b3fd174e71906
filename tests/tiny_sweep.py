"""A tiny base and sweeps on it, in this process, with as few compilations as can be."""

from __future__ import annotations

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
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.stream_data import load_stream_data
from smf_jax.continual.sweep import Tools
from smf_jax.continual.sweep_state import new_group
from smf_jax.continual.trial_group import TrialGroup
from smf_jax.tables import packed
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
_NO_PROGRAM += ("vary", "save_every", "track")
# Flags that decide what is probed, and nothing of how a trial trains.
_PROBES = ("probes", "probe_limit", "probe_shots", "probe_answer_tokens", "probe_chat")
_PROBES += ("ppl_window", "ppl_stride", "in_context")


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
      trained: parameters after each task, by run, trial and task.
      may_measure: whether a background may be measured; tests that forbid it say so.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.groups: dict[Any, TrialGroup] = {}
        self.trained: dict[tuple[str, str, int], dict[str, np.ndarray]] = {}
        self.may_measure = True
        self._stream_data: dict[str, Any] = {}
        self._backgrounds: dict[str, Any] = {}

    def config(self, out: Path | str, **changes: Any) -> SweepConfig:
        """That of the tiny sweep with changes."""
        given = {"base": str(self.base), **TINY_SWEEP, "out": str(out), **changes}
        return SweepConfig.of(**given)

    def __call__(
        self, out: Path | str, devices: int = 1, report: bool = False, **changes: Any
    ) -> int:
        """Runs a sweep; returns the status that the command would exit with."""
        config = self.config(out, **changes)
        with on_devices(devices):
            written = {} if report else {"report": lambda *_: ""}
            return sweep.main(config, self.tools(config), **written)

    def tools(self, config: SweepConfig) -> Tools:
        """Those that remember what earlier sweeps have made."""

        def make_group(setup, trial, trainer, usage, mesh, rows):
            kept = setup.tasks if setup.training.keep_optimizer_state else None
            shapes = {batch.tokens.shape for batch in setup.examples}
            told = (repr(_decisive(config, "tasks", *_PROBES)), kept, repr(shapes))
            key = (*told, setup.base.fingerprint(), trial.group), tuple(mesh.devices.flat)
            if key not in self.groups:
                self.groups[key] = new_group(setup, trial, trainer, usage, mesh, rows)
            return self.groups[key]

        def on_task(trial, task, trained):
            self.trained[Path(config.run.out).name, trial.id, task] = jax.device_get(trained)

        return Tools(
            load_stream_data=self._load_stream_data,
            measure_background=self._measure_background,
            make_group=make_group,
            on_task=on_task,
        )

    def _load_stream_data(self, config, base, asking=None):
        key = repr((_decisive(config), asking is None))
        if key not in self._stream_data:
            self._stream_data[key] = load_stream_data(config, base, asking)
        return self._stream_data[key]

    def _measure_background(self, model, params, batches, **about):
        assert self.may_measure
        read = [fingerprint(part._asdict()) for part in batches]
        key = repr((fingerprint(packed(params)), read, about["corpus"]))
        if key not in self._backgrounds:
            self._backgrounds[key] = measure_background(model, params, batches, **about)
        return self._backgrounds[key]


def _decisive(config: SweepConfig, *but: str) -> dict[str, Any]:
    """The settings that decide what is read and what is compiled, less some."""
    given = config.values().items()
    return {name: value for name, value in given if name not in (*_NO_PROGRAM, *but)}


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


def added_at_zero(base: Path, place: Path) -> dict[str, Any]:
    """Flags of a memory of zeros in a plain base, eight questions to teach it and general text."""
    asked = [{"question": f"Who made thing {n}?", "answers": [f"Maker {n}"]} for n in range(8)]
    texts = [{"text": f"Thing number {n} stands beside thing {n + 1}."} for n in range(400)]
    return dict(
        base=str(base),
        retrofit="add",
        layers="0",
        keys_per_half=32,
        memory_heads=2,
        stream=str(write_lines(place / "stream.jsonl", *asked)),
        background=str(write_lines(place / "general.jsonl", *texts)),
        background_batches=2,
    )


def of_two_tasks(**changes: Any) -> dict[str, Any]:
    """Flags of one small smf trial, whose step is a program of its own."""
    small = dict(reads=3, key_width=8, methods="smf", slots="16", lr="0.5", optimizer="adam")
    return small | dict(tasks=2, facts_per_task=4, steps_per_task=3) | changes


def write_lines(path: Path, *records: dict[str, Any] | str) -> Path:
    """Writes a JSONL file; a string is a line as it stands."""
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path
