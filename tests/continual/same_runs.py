"""Whether two runs are the same to the bit, and machines that die in the middle of one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smf_jax import checkpoints
from smf_jax.bases.base import load_base
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.sparse.patch import Patch, apply_patch
from tests.tiny_sweep import Killed, Sweeper, checkpoints_of, rows_of

POOL = "memory/pool_0/values"


def assert_same_run(one: Path, other: Path) -> None:
    """Same numbers to the last bit, same checkpoints with the same metadata."""
    assert rows_of(one) == rows_of(other)
    assert checkpoints_of(one) == checkpoints_of(other)


def assert_same_bits(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """The same arrays by path, bit for bit."""
    assert one.keys() == other.keys()
    for path in one:
        assert np.asarray(one[path]).tobytes() == np.asarray(other[path]).tobytes(), path


def replayed(run: Path, trial: str, tasks: int) -> dict[str, Any]:
    """The base of a run with the first patches of a trial applied, each checked bit for bit."""
    params = load_base(str(run / "base"), "base").params
    base_fingerprint = checkpoints.read_manifest(run / "base" / "leaves").fingerprint
    parent = base_fingerprint
    for task in range(tasks):
        stored = checkpoints.load(run / "trials" / trial / f"task_{task:02d}")
        patch = Patch.from_arrays(*stored)
        assert (patch.base, patch.parent) == (base_fingerprint, parent)
        params, parent = apply_patch(params, patch, base=base_fingerprint), patch.fingerprint
    return params


def assert_goes_on(
    sweeper: Sweeper, flags: Mapping[str, Any], run: Path, out: Path, event: str = "after a save"
) -> None:
    """Killed at the second such event, and resumed: the run that was not killed."""
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, event, 2)
        with pytest.raises(Killed):
            sweeper(out, **flags)
    assert sweeper(out, resume=True, **flags) == 0
    assert_same_run(out, run)


def kill_at(patch: pytest.MonkeyPatch, event: str, number: int) -> None:
    """Lets the machine die at the n-th such event, counted from 1."""
    save, append = RunDirectory._save, RunDirectory.append
    seen = dict.fromkeys(("save", "row"), 0)

    def dying_save(run, trial, task, arrays, about):
        seen["save"] += 1
        is_last = seen["save"] == number
        if event == "before a save" and is_last:
            raise Killed
        save(run, trial, task, arrays, about)
        if event == "half a checkpoint" and is_last:
            shutil.rmtree(run.task_path(trial, task) / "manifest")
        if event in ("after a save", "half a checkpoint") and is_last:
            raise Killed

    def dying_append(run, row):
        seen["row"] += 1
        if event == "half a row" and seen["row"] == number:
            with run._results.open("a") as file:
                file.write(json.dumps(row.to_json())[:150])
            raise Killed
        append(run, row)

    patch.setattr(RunDirectory, "_save", dying_save)
    patch.setattr(RunDirectory, "append", dying_append)
