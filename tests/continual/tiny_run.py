"""A run's directory as finished tasks leave it, without training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from smf_jax import checkpoints
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.results import ResultRow
from smf_jax.continual.run_config import CONFIG
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.trial import Trial
from tests.fixtures import make_rows

SMF = Trial("smf", 16, "tfidf", "per_step", "sgd", 30.0, 0, "facts")
FULL = Trial("full", None, None, None, "adamw", 1e-3, 0, "shuffled")
CONFIGURATION = SweepConfig.of(methods="smf", slots="16", seeds="0", out="a").resolved()


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    run = RunDirectory(str(tmp_path / "run"))
    run.open(CONFIGURATION)
    return run


def row_of(trial: Trial, task: int, **changes) -> ResultRow:
    """A row whose numbers are those of `make_rows`."""
    (row,) = make_rows(tasks=1)
    return dataclasses.replace(ResultRow.from_json(row), trial=trial, task=task, **changes)


def told(run: RunDirectory) -> dict:
    return json.loads((run.path / CONFIG).read_text())


def finish(run: RunDirectory, trial: Trial, *tasks: int, failed: int | None = None) -> None:
    """Leaves what finished tasks leave; `failed` is the step at which the last one did not."""
    for task in tasks:
        is_last = task == tasks[-1]
        step = failed if is_last else None
        if step is None:
            checkpoints.save(run.task_path(trial, task), {"a": np.zeros(2)}, {})
        run.append(row_of(trial, task, failed_step=step))


def remove(path: Path) -> None:
    """Removes a file or a directory."""
    for each in path.iterdir() if path.is_dir() else ():
        remove(each)
    path.rmdir() if path.is_dir() else path.unlink()
