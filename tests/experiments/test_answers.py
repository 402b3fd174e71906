"""What a trial's models say to the facts of its stream: as the sweep has measured it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from experiments import answers
from experiments.answers import AnswersConfig
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.task_checkpoints import ANSWERS, TRIALS
from tests.tiny_sweep import on_devices, rows_of

TRIAL = "full-adamw-lr0.01-s0"


def do(run, **flags) -> int:
    with on_devices(1):
        return answers.main(AnswersConfig(run=str(run), **flags))


def test_models_that_are_not_kept_are_left_out(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    trial, last = RunDirectory(str(run)).find_trial(TRIAL)
    for task in range(last):
        shutil.rmtree(RunDirectory(str(run)).task_path(trial, task))
    assert do(run, trial=TRIAL) == 0
    told = RunDirectory(str(run)).read_answers(trial)
    assert {(row["task"], row["after_task"] is None) for row in told} == {
        (task, task < last) for task in range(last + 1)
    }


def test_answers_are_those_that_the_sweep_has_measured(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    assert do(run, trial=TRIAL) == 0
    text = (run / TRIALS / TRIAL / ANSWERS).read_text()
    told = [json.loads(line) for line in text.splitlines()]
    rows = [row for row in rows_of(run) if row["trial"] == TRIAL]
    for row in rows:
        of_task = [each for each in told if each["task"] == row["task"]]
        assert len({each["asked"] for each in of_task}) == len(of_task) == 2 * row["facts"]
        for when, measured in (
            ("base", row["unseen_base"]),
            ("after_task", row["unseen"]),
            ("at_end", rows[-1]["retention"][row["task"]]),
        ):
            right = np.mean([each[when] in each["expected"] for each in of_task])
            assert right == pytest.approx(measured), (row["task"], when)
    assert any(each["right"] for each in told) and not all(each["right"] for each in told)
    # What was asked before a trial was taught more is told no longer.
    directory = RunDirectory(str(run))
    trial, last = directory.find_trial(TRIAL)
    assert directory.read_answers(trial) == told and max(row["task"] for row in told) == last
    directory.write_answers(trial, [row for row in told if row["task"] < last])
    assert directory.read_answers(trial) == []
    (run / TRIALS / TRIAL / ANSWERS).write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match=f"{TRIAL}/{ANSWERS}: "):
        directory.read_answers(trial)
