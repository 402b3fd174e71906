"""What is written in the background: its order, its errors, and that a sweep goes on meanwhile."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from experiments import sweep
from smf_jax import interrupts
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.trial_group import TrialGroup
from smf_jax.continual.writer import Writer
from tests.tiny_sweep import checkpoints_of, rows_of

WAIT = 60.0  # seconds after which something will not come


def test_one_thing_is_done_after_the_other_and_all_before_the_end():
    done, may_end = [], threading.Event()

    def first():
        assert may_end.wait(WAIT)
        done.append(1)

    with Writer() as writer:
        writer.do(first)
        assert not done
        may_end.set()
        writer.do(lambda: done.append(2))
        assert done[0] == 1
    assert done == [1, 2]


def test_an_error_stops_the_process_at_its_next_step_and_is_told_once():
    def full():
        raise OSError("no space")

    with Writer() as writer:
        writer.do(full)
        writer._thread.shutdown()  # it has ended
        with pytest.raises(OSError, match="no space"):
            interrupts.check()
        with pytest.raises(OSError, match="no space"):
            writer.wait()
        interrupts.check()
        writer.wait()


def test_an_error_that_nobody_has_met_is_raised_at_the_end():
    def full():
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"), Writer() as writer:
        writer.do(full)
    interrupts.check()


def test_the_next_task_trains_while_one_is_saved(sweeper, tmp_path, monkeypatch):
    trained, met = [threading.Event() for _ in range(3)], []
    train, save = TrialGroup.train, RunDirectory.save_params

    def training(self, *args, **kwargs):
        next(each for each in trained if not each.is_set()).set()
        return train(self, *args, **kwargs)

    def saving(self, trial, task, params, base):
        if task == 0:
            met.append(trained[1].wait(WAIT))  # which begins with the next task
            assert not self.rows(), "a row before its checkpoint is whole"
        save(self, trial, task, params, base)

    given = dict(methods="full", lr="full:1e-3")
    whole, out = tmp_path / "whole", tmp_path / "overlapping"
    monkeypatch.setattr(TrialGroup, "train", training)
    monkeypatch.setattr(RunDirectory, "save_params", saving)
    config = sweeper.config(out, **given)
    tools = sweeper.tools(config)
    assert sweep.main(config, replace(tools, on_task=None), report=lambda *_: "") == 0
    assert met == [True]
    monkeypatch.undo()
    assert sweeper(whole, **given) == 0
    assert rows_of(out) == rows_of(whole) and len(rows_of(out)) == 2
    assert checkpoints_of(out) == checkpoints_of(whole)
