"""Who is told what of a sweep, and what happens when they fail."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import numpy as np
import pytest

from experiments import sweep
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.trackers import TRACKERS
from smf_jax.continual.trackers.tracker import numbers_of
from smf_jax.continual.tracking import check_trackers
from smf_jax.continual.trial_group import TrialGroup
from tests.fixtures import NO_COMPUTE
from tests.tiny_sweep import TINY_SWEEP, rows_of


class Notes:
    """Writes down all that it is told, by trial."""

    name: ClassVar[str] = "notes"
    module: ClassVar[str] = "json"  # is always there
    package: ClassVar[str] = "notes-of-nobody"
    needs_disk: ClassVar[bool] = True
    told: ClassVar[dict[str, list[tuple[str, Any]]]]
    fails: ClassVar[str] = ""

    def start(self, run, trial, config):
        self._mine = self.told.setdefault(trial, [])
        self._tell("start", (run, config))

    def log_scalars(self, step, values):
        self._tell("scalars", (step, values))

    def log_row(self, step, row):
        self._tell("row", (step, row))

    def finish(self):
        self._tell("finish", None)

    def _tell(self, what, told):
        self._mine.append((what, told))
        if what == self.fails:
            raise RuntimeError("the line is dead")


@pytest.fixture
def notes(monkeypatch) -> type[Notes]:
    class OfThisTest(Notes):
        told: ClassVar = {}

    monkeypatch.setitem(TRACKERS, "notes", OfThisTest)
    return OfThisTest


PAIR: dict[str, Any] = dict(methods="full", lr="1e-3,1e-2", optimizer="")


def test_each_trial_is_followed_from_its_configuration_to_its_last_row(sweeper, tmp_path, notes):
    out = tmp_path / "run"
    assert sweeper(out, devices=2, track="notes", **PAIR) == 0
    rows = rows_of(out)
    assert set(notes.told) == {row["trial"] for row in rows} and len(notes.told) == 2
    for trial, told in notes.told.items():
        of_task = ["scalars"] * 6 + ["row"]
        assert [what for what, _ in told] == ["start", *of_task, *of_task, "finish"]
        run, config = told[0][1]
        assert run == out and config["trial"] == trial and config["batch_size"] == 16
        assert config["learning_rate"] == (0.001 if "0.001" in trial else 0.01)
        json.dumps(config)
        scalars = [value for what, value in told if what == "scalars"]
        assert [step for step, _ in scalars] == list(range(12))
        mine = [row for row in rows if row["trial"] == trial]
        for task, row in enumerate(mine):
            assert scalars[6 * task][1] == {"loss": row["loss_first"]}
            assert scalars[6 * task + 5][1] == {"loss": row["loss_last"]}
        kept = [value for what, value in told if what == "row"]
        assert [step for step, _ in kept] == [5, 11]
        for (_, row), own in zip(kept, mine, strict=True):
            assert {key: row[key] for key in own} == own


@pytest.mark.parametrize("event", ["start", "scalars", "row", "finish"])
def test_one_that_fails_is_told_of_once_and_stops_nothing(
    sweeper, tmp_path, notes, monkeypatch, capsys, event
):
    monkeypatch.setattr(notes, "fails", event)
    other = type("Other", (notes,), dict(name="other", told={}, fails=""))
    monkeypatch.setitem(TRACKERS, "other", other)
    assert sweeper(tmp_path / "run", devices=2, track="notes, other", **PAIR) == 0
    told = capsys.readouterr().out
    assert told.count("--track=notes failed and is told nothing more") == 1
    assert "the line is dead" in told
    assert len(rows_of(tmp_path / "run")) == 4
    assert sum(what == event for each in notes.told.values() for what, _ in each) == 1
    assert [len(each) for each in other.told.values()] == [16, 16]


def test_what_cannot_be_told_is_refused_before_anything_runs(tmp_path, notes, monkeypatch):
    def refused(track: str, message: str, out: str = str(tmp_path / "run")) -> None:
        with pytest.raises(ValueError, match=message):
            sweep.main(SweepConfig.of(**{**TINY_SWEEP, "track": track, "out": out}), NO_COMPUTE)

    refused("wand", "--track=wand: wand is unknown; choose from tensorboard, trackio, wandb")
    monkeypatch.setattr(notes, "module", "no_such_module")
    refused("notes", "--track=notes: notes needs a package: pip install notes-of-nobody")
    (tmp_path / "left_behind").mkdir()  # a folder of that name is no package
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(notes, "module", "left_behind")
    refused("notes", "pip install notes-of-nobody")
    assert not (tmp_path / "run").exists()


def test_a_store_is_no_disk(store, notes):
    with pytest.raises(ValueError, match="notes writes to disks only, and --out=gs://bucket/run"):
        check_trackers("notes", "gs://bucket/run")


def test_nobody_is_told_where_nothing_is_said(sweeper, tmp_path, notes):
    assert sweeper(tmp_path / "run", devices=2, **PAIR) == 0
    assert notes.told == {} and check_trackers("", "runs/a") == check_trackers(" , ", "runs/a")


def test_a_finished_trial_is_not_followed_again(sweeper, tmp_path, notes, monkeypatch):
    assert sweeper(tmp_path / "run", devices=2, **PAIR) == 0
    monkeypatch.setattr(TrialGroup, "train", None)
    assert sweeper(tmp_path / "run", devices=2, resume=True, track="notes", **PAIR) == 0
    assert notes.told == {}  # and another --track is no other run


def test_what_of_a_row_is_a_measurement():
    row = {"trial": "a", "seed": 3, "unseen": 0.5, "rows": np.int64(2).item(), "known": None}
    row |= {"retention": [1.0], "is": True}
    assert numbers_of(row, {"trial": "a", "seed": 3}) == {"task/unseen": 0.5, "task/rows": 2.0}
