"""Checkpoints of a run: what they are, how many are kept."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from smf_jax import checkpoints
from smf_jax.continual.config import SweepConfig
from tests.continual.tiny_run import FULL, SMF, finish, remove, run

__all__ = ["run"]


def test_leaves_are_kept_with_what_they_are(run):
    params = {"a/b": np.arange(3.0)}
    for task in (0, 1):
        run.save_params(FULL, task, params, "mark")
    metadata = checkpoints.read_metadata(run.task_path(FULL, 1))
    assert metadata["kind"] == "leaves" and metadata["base"] == "mark"
    assert metadata.items() >= FULL.to_row().items()
    np.testing.assert_array_equal(run.load_params(FULL, 1)["a/b"], params["a/b"])
    run.drop_params_before(FULL, 1, 1)
    assert [path.name for path in run.task_path(FULL, 0).parent.iterdir()] == ["task_01"]
    finish(run, SMF, 0, 1)
    run.drop_params_before(SMF, 1, 1)
    assert run.completed(SMF) == (2, None)


def test_half_a_checkpoint_is_replaced(run):
    run.save_params(FULL, 0, {"a": np.zeros(2)}, "mark")
    remove(run.task_path(FULL, 0) / "manifest")
    run.save_params(FULL, 0, {"a": np.ones(2)}, "mark")
    np.testing.assert_array_equal(run.load_params(FULL, 0)["a"], np.ones(2))


@pytest.mark.parametrize("left", ["task_01.incoming", "task_01.outgoing"])
def test_what_a_killed_save_left_is_no_task(run, left):
    for task in (0, 1):
        run.save_params(FULL, task, {"a": np.zeros(2)}, "mark")
    saved = run.task_path(FULL, 1)
    shutil.copytree(saved, saved.with_name(left))
    assert checkpoints.is_complete(saved.with_name(left))
    assert run.kept_tasks(FULL) == (0, 1)
    assert run.find_trial(FULL.id) == (FULL, 1)


@pytest.mark.parametrize(("keep", "kept"), [(1, [3]), (2, [2, 3]), (9, [0, 1, 2, 3])])
def test_so_many_parameters_are_kept_and_all_patches(run, keep, kept):
    for trial in (SMF, FULL):
        for task in range(4):
            finish(run, trial, task)
            run.drop_params_before(trial, task, keep)
    there = sorted(path.name for path in run.task_path(FULL, 0).parent.iterdir())
    assert there == [f"task_{task:02d}" for task in kept]
    assert run.completed(SMF) == run.completed(FULL) == (4, None)


@pytest.mark.parametrize("told", ["0", "-1", "best", "", "1.5", "9" * 5000, "٣"])
def test_a_number_of_checkpoints_is_one(told):
    with pytest.raises(ValueError, match="--keep_checkpoints=.*: expected all, last, or a number"):
        SweepConfig.of(keep_checkpoints=told)
    kept = [SweepConfig.of(keep_checkpoints=n).run.checkpoints_kept for n in ("all", "last", "3")]
    assert kept == [None, 1, 3]
