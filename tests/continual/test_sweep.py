"""Two sweeps at work on one directory: at whatever moment the second comes, nothing is lost."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any

import pytest

from experiments import sweep
from smf_jax.checkpoints import run_lock
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.trial_group import TrialGroup
from tests.fixtures import NO_COMPUTE
from tests.tiny_sweep import checkpoints_of, content, on_devices, rows_of

TWO: dict[str, Any] = dict(methods="smf", optimizer="", lr="30", slots="16,64")
MOMENTS = ("background", "opened", "saved", "told")
WAYS: dict[str, dict[str, Any]] = {
    "start": {},
    "resume": dict(resume=True),
    "overwrite": dict(overwrite=True),
    "share": dict(shard="0/2"),
    "share anew": dict(shard="0/2", overwrite=True),
    "a share of another number": dict(shard="0/3"),
}


class Waits(Exception):
    """A process waits for another."""


@pytest.fixture
def meanwhile(sweeper, monkeypatch):
    """Runs a sweep, and at each of its `MOMENTS` something else."""

    def run(out, other, **changes) -> list[str]:
        seen = []

        def at(moment):
            if moment not in seen:
                seen.append(moment)
                other(moment)

        def then(name, moment):
            plain = getattr(RunDirectory, name)

            def wrapped(run, *told):
                plain(run, *told)
                at(moment)

            return wrapped

        config = sweeper.config(out, **TWO, **changes)
        own = sweeper.tools(config)

        def measure(*told, **more):
            at("background")
            return own.measure_background(*told, **more)

        with pytest.MonkeyPatch.context() as patch, on_devices(1):
            for name, moment in (("open", "opened"), ("_save", "saved"), ("append", "told")):
                patch.setattr(RunDirectory, name, then(name, moment))
            tools = dataclasses.replace(own, measure_background=measure)
            assert sweep.main(config, tools, lambda *_: "") == 0
        return seen

    return run


@pytest.mark.parametrize("first", [{}, dict(shard="0/2")], ids=["whole", "share"])
def test_who_wants_the_same_trials_is_refused_at_every_moment(sweeper, meanwhile, tmp_path, first):
    out, refused = tmp_path / "run", []

    def second(moment):
        for way, given in WAYS.items():
            before = content(out)
            with pytest.raises(BlockingIOError) as error:
                sweep.main(sweeper.config(out, **TWO, **given), NO_COMPUTE)
            told = f"--out={out} is being written by process {os.getpid()} on .*, since 20.*; wait "
            assert re.match(told, str(error.value))
            assert content(out) == before
            refused.append((moment, way))

    assert meanwhile(out, second, **first) == list(MOMENTS)
    assert refused == [(moment, way) for moment in MOMENTS for way in WAYS]
    assert len(rows_of(out)) == 2 * (1 if first else 2)
    assert not list(out.glob(".*"))


def test_another_share_waits_for_the_start_and_joins_at_every_later_moment(
    sweeper, meanwhile, tmp_path, monkeypatch
):
    whole, out, came = tmp_path / "whole", tmp_path / "run", []
    assert sweeper(whole, **TWO) == 0

    def second(moment):
        if moment in started:
            return
        for given in (dict(shard="1/2"), dict(shard="1/2", overwrite=True)):
            config = sweeper.config(out, **TWO, **given)
            tools = dataclasses.replace(NO_COMPUTE, run_group=lambda *_: None)
            sweep.main(config, dataclasses.replace(tools, load_base=sweep_base), lambda *_: "")
            came.append(moment)

    def sweep_base(*told):
        return sweeper.tools(sweeper.config(out)).load_base(*told)

    def wait(_):
        raise Waits

    started = []
    for moment in MOMENTS[:2]:
        with monkeypatch.context() as patch, pytest.raises(Waits):
            patch.setattr(run_lock.time, "sleep", wait)
            meanwhile(out, second, shard="0/2", overwrite=True)
        started.append(moment)
    assert not came
    assert meanwhile(out, second, shard="0/2")
    assert came == [moment for moment in MOMENTS[2:] for _ in range(2)]
    assert sweeper(out, **TWO, shard="1/2") == 0
    assert (rows_of(out), checkpoints_of(out)) == (rows_of(whole), checkpoints_of(whole))


def test_one_that_goes_on_with_another_split_has_every_row_once(sweeper, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "run"
    for path in (whole, out):
        assert sweeper(path, **TWO) == 0
    trial = rows_of(out)[0]["trial"]
    (out / "trials" / trial / "task_00" / "manifest").rename(tmp_path / "lost")
    assert sweeper(out, **TWO, shard="0/2") == 0
    assert sweeper(out, **TWO, shard="1/2") == 0
    assert (rows_of(out), checkpoints_of(out)) == (rows_of(whole), checkpoints_of(whole))
    monkeypatch.setattr(TrialGroup, "train", None)
    assert sweeper(out, **TWO, resume=True) == 0
