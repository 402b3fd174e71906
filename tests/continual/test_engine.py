"""Running trials: side by side, after a kill at any point, when one of them fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smf_jax.bases.base import load_base
from smf_jax.continual.methods import METHODS
from smf_jax.continual.methods.smf import SmfConfig
from smf_jax.continual.results_files import RESULTS
from smf_jax.continual.stream_data import StreamData
from smf_jax.continual.trial_group import TrialGroup
from tests.continual.same_runs import POOL, assert_same_bits, assert_same_run, kill_at, replayed
from tests.tiny_sweep import Killed, Sweeper, checkpoints_of, rows_of, write_lines

# Whether this process compiles as users do; all other tests let XLA do less.
BY_DEFAULT = os.environ.get("SMF_JAX_TESTS_XLA") == "default"
# Two methods of two trials each: two groups that run on two devices.
FOUR: dict[str, Any] = dict(methods="smf,full", lr="smf:30/full:1e-3,1e-2", optimizer="")


@pytest.fixture(scope="module")
def four(sweeper, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "four"
    assert sweeper(out, devices=2, **FOUR) == 0
    return out


@pytest.mark.parametrize(
    ("event", "number", "changes"),
    [
        # Checkpoints and rows 1 to 4 are those of full, two trials a task; 5 to 8 those of smf.
        ("before a save", 1, {}),
        ("half a row", 2, {}),  # of two trials side by side, one is a task ahead
        ("half a row", 4, {"keep_checkpoints": "last"}),  # and has lost what the other goes on from
        ("after a save", 4, {"keep_checkpoints": "last"}),
        ("half a row", 6, {}),
        ("half a checkpoint", 7, {}),
    ],
)
def test_a_resume_after_a_kill_gives_the_bits_of_an_uninterrupted_run(
    sweeper, four, tmp_path, event, number, changes
):
    out = tmp_path / "killed"
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, event, number)
        with pytest.raises(Killed):
            sweeper(out, devices=2, **FOUR, **changes)
    assert sweeper(out, devices=2, resume=True, **FOUR, **changes) == 0
    assert rows_of(out) == rows_of(four)
    kept, every = checkpoints_of(out), checkpoints_of(four)
    if changes:
        gone = {name for name in every if "full" in name and name.endswith("task_00")}
        assert every.keys() - kept.keys() == gone
    assert kept == {name: every[name] for name in kept}
    assert len((out / RESULTS).read_text().splitlines()) == 8


def test_lost_checkpoints_are_made_again(sweeper, four, tmp_path):
    out = tmp_path / "damaged"
    shutil.copytree(four, out)
    smf, full = (sorted((out / "trials").glob(f"{name}-*")) for name in ("smf", "full"))
    shutil.rmtree(smf[0] / "task_00")  # the patch after it cannot be applied without it
    shutil.rmtree(smf[1] / "task_01" / "arrays")
    shutil.rmtree(full[0] / "task_01")
    assert sweeper(out, devices=2, resume=True, **FOUR) == 0
    assert_same_run(out, four)
    assert len((out / RESULTS).read_text().splitlines()) == 8


def test_a_finished_run_is_not_run_again(sweeper, four, tmp_path, monkeypatch):
    out = tmp_path / "again"
    shutil.copytree(four, out)
    before = (out / RESULTS).read_bytes()
    monkeypatch.setattr(TrialGroup, "train", None)
    monkeypatch.setattr(sweeper, "may_measure", False)
    assert sweeper(out, devices=2, resume=True, **FOUR) == 0
    assert (out / RESULTS).read_bytes() == before


def test_a_shared_directory_survives_the_half_written_row_of_another_machine(
    sweeper, four, tmp_path
):
    out = tmp_path / "shared"
    shutil.copytree(four, out)
    (out / "results-1-of-2.jsonl").write_text('{"trial": "smf-tf')
    assert sweeper(out, devices=2, resume=True, **FOUR) == 0
    assert_same_run(out, four)


def test_eight_devices_give_the_numbers_of_one(sweeper, tmp_path):
    eight = dict(methods="smf", optimizer="sgd", slots="16,64", seeds="0,1,2,3", lr="30", tasks=1)
    for devices in (1, 8):
        assert sweeper(tmp_path / str(devices), devices=devices, **eight) == 0
    rows = rows_of(tmp_path / "8")
    losses = {(row["loss_last"], row["text_loss"]) for row in rows}
    assert len(losses) == len(rows) == 8  # no trial ran in another's place
    assert_same_run(tmp_path / "8", tmp_path / "1")
    # Three trials on two devices: the last one runs twice and is told once.
    three = eight | dict(slots="16", seeds="0,1,2")
    assert sweeper(tmp_path / "2", devices=2, **three) == 0
    assert rows_of(tmp_path / "2") == rows[:3]


@pytest.mark.skipif(BY_DEFAULT, reason="this is the process that it starts")
def test_the_promises_hold_as_xla_compiles_by_default(tiny_base):
    environment = {
        **os.environ,
        "SMF_JAX_TESTS_XLA": "default",
        "SMF_JAX_TINY_BASE": str(tiny_base),
    }
    for name in ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS", "PYTEST_XDIST_WORKER"):
        environment.pop(name, None)
    chosen = test_devices_and_a_resume_keep_every_bit_by_default.__name__
    command = [sys.executable, "-m", "pytest", "-q", __file__, "-k", chosen]
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True)
    assert run.returncode == 0, run.stdout
    assert "1 passed" in run.stdout


@pytest.mark.skipif(not BY_DEFAULT, reason="run by the test above, in a process of its own")
def test_devices_and_a_resume_keep_every_bit_by_default(tiny_base, tmp_path):
    plain = Sweeper(tiny_base)
    two: dict[str, Any] = dict(methods="smf", optimizer="sgd", slots="16", seeds="0,1", lr="30")
    for devices in (1, 2):
        assert plain(tmp_path / str(devices), devices=devices, **two) == 0
    assert_same_run(tmp_path / "2", tmp_path / "1")
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, "half a row", 3)
        with pytest.raises(Killed):
            plain(tmp_path / "killed", devices=2, **two)
    assert plain(tmp_path / "killed", devices=2, resume=True, **two) == 0
    assert_same_run(tmp_path / "killed", tmp_path / "1")
    for trial in {row["trial"] for row in rows_of(tmp_path / "1")}:
        trained = plain.trained["1", trial, 1]  # and nothing but the rows of its patches changed
        assert_same_bits(
            replayed(tmp_path / "1", trial, 2), replayed(tmp_path / "1", trial, 0) | trained
        )


@pytest.mark.parametrize(
    "changes",
    [
        dict(rule="all", optimizer="momentum", lr="10"),
        dict(rule="kl_acc", optimizer="adamw", granularity="per_task", slots="16", lr="0.03"),
    ],
    ids=lambda changes: changes["rule"],
)
def test_every_rule_and_optimizer_changes_the_rows_of_its_patches_only(sweeper, tmp_path, changes):
    out = tmp_path / changes["rule"]
    assert sweeper(out, methods="smf", **changes) == 0
    rows = rows_of(out)
    (trial,) = {row["trial"] for row in rows}
    base = load_base(str(out / "base"), "base").params
    for task, row in enumerate(rows):
        params = replayed(out, trial, task + 1)
        assert_same_bits({POOL: params[POOL]}, sweeper.trained[out.name, trial, task])
        assert_same_bits({**params, POOL: 0}, {**base, POOL: 0})
        if changes["rule"] == "all":
            assert row["loss_last"] < row["loss_first"]
            assert 64 < row["rows_selected"] <= row["rows_changed"] <= 256
        else:
            # Only rows that the task selected, and of these only what a batch has read.
            assert 0 < row["rows_selected"] <= row["rows_changed"] <= 16


def test_kept_optimizer_state_outlives_tasks_and_kills(sweeper, tmp_path):
    kept = dict(methods="smf", rule="random", optimizer="adam", slots="16", lr="0.03", seeds="0,1")
    kept |= dict(keep_optimizer_state=True)
    whole, killed = tmp_path / "whole", tmp_path / "killed-kept"
    assert sweeper(whole, devices=2, **kept) == 0
    one, other = {row["trial"] for row in rows_of(whole)}
    tables = [sweeper.trained[whole.name, trial, 0][POOL] for trial in (one, other)]
    assert np.any(tables[0] != tables[1])  # rule random: other seeds, other rows
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, "half a row", 3)  # both trials have finished a task
        with pytest.raises(Killed):
            sweeper(killed, devices=2, **kept)
    assert sweeper(killed, devices=2, resume=True, **kept) == 0
    assert_same_run(killed, whole)
    for trial in (one, other):
        last = sweeper.trained[killed.name, trial, 1]
        assert_same_bits({POOL: replayed(killed, trial, 2)[POOL]}, last)


@pytest.mark.parametrize("number", [4, 5])
def test_what_each_trial_has_written_stays_protected_when_one_is_a_task_ahead(
    sweeper, tmp_path, number
):
    given = dict(methods="smf", optimizer="sgd", slots="16", lr="30", seeds="0,1", tasks=3)
    given |= dict(protect_written=1.0)
    whole, killed = tmp_path / "whole-protected", tmp_path / "killed-protected"
    assert sweeper(whole, devices=2, **given) == 0
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, "half a row", number)
        with pytest.raises(Killed):
            sweeper(killed, devices=2, **given)
    assert sweeper(killed, devices=2, resume=True, **given) == 0
    assert_same_run(killed, whole)


def spoil(patch: pytest.MonkeyPatch, task: int, seed: int, step: int) -> None:
    """Makes the loss of one trial's step NaN."""
    honest = StreamData.batches

    def spoilt(self, at, of, *rest, **options):
        batches = honest(self, at, of, *rest, **options)
        if (at, of) == (task, seed):
            batches.weights[step] = np.nan
        return batches

    patch.setattr(StreamData, "batches", spoilt)


def test_a_trial_that_is_not_finite_stops_alone_and_keeps_its_last_good_checkpoint(
    sweeper, four, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "spoilt"
    pair = dict(methods="smf", optimizer="sgd", slots="16", lr="30", seeds="0,1")
    bad, good = "smf-tfidf-sgd-t16-lr30-s1", "smf-tfidf-sgd-t16-lr30-s0"
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, task=1, seed=1, step=5)
        assert sweeper(out, devices=2, tasks=3, **pair) == 1
    told = capsys.readouterr().out
    assert f"failed: {bad}: task 1, step 5: " in told
    assert "last good checkpoint is that of task 0" in told
    rows = {(row["trial"], row["task"]): row for row in rows_of(out)}
    assert {task for trial, task in rows if trial == bad} == {0, 1}
    assert {task for trial, task in rows if trial == good} == {0, 1, 2}
    assert rows[bad, 1]["failed_step"] == 5
    assert [path.name for path in (out / "trials" / bad).iterdir()] == ["task_00"]
    first = sweeper.trained[out.name, bad, 0]
    assert_same_bits({POOL: replayed(out, bad, 1)[POOL]}, first)
    # The trial beside it is none the worse, and a resume neither forgets nor retries the failure.
    assert [row["failed_step"] for (trial, _), row in rows.items() if trial == good] == [None] * 3
    for name, kept in checkpoints_of(out).items():
        assert kept == checkpoints_of(four).get(name, kept)
    monkeypatch.setattr(TrialGroup, "train", None)
    assert sweeper(out, devices=2, tasks=3, resume=True, **pair) == 1
    assert f"failed: {bad}: task 1, step 5: " in capsys.readouterr().out


def test_a_resume_goes_on_beside_a_trial_that_failed(sweeper, tmp_path):
    pair = dict(methods="smf", optimizer="sgd", slots="16", lr="30", seeds="0,1")
    whole, killed = tmp_path / "whole-failed", tmp_path / "killed-failed"
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, task=0, seed=0, step=0)
        assert sweeper(whole, devices=2, **pair) == 1
        kill_at(patch, "after a save", 2)
        with pytest.raises(Killed):
            sweeper(killed, devices=2, **pair)
    assert sweeper(killed, devices=2, resume=True, **pair) == 1
    assert_same_run(killed, whole)


def test_a_rate_that_makes_the_loss_overflow_fails_only_its_trial(sweeper, tmp_path, capsys):
    out = tmp_path / "overflow"
    assert sweeper(out, devices=2, report=True, methods="full", optimizer="", lr="1e-3,1e30") == 1
    bad = "full-adamw-lr1e+30-s0"
    step = next(row["failed_step"] for row in rows_of(out) if row["trial"] == bad)
    told = capsys.readouterr().out
    assert f"failed: {bad}: task 0, step {step}: " in told
    assert "last good checkpoint is the base" in told
    assert not (out / "trials" / bad).exists()
    assert f"{bad} failed at task 0, step {step}" in (out / "report.md").read_text()
    assert len(list((out / "trials" / "full-adamw-lr0.001-s0").iterdir())) == 2


def test_too_small_a_store_is_named_as_a_possible_cause():
    assert "--store_rows=17" in METHODS["smf"].limits(SmfConfig(store_rows=17))
    assert METHODS["smf"].limits(SmfConfig()) == METHODS["full"].limits(None) == ""


def test_packed_rows_teach_on_any_devices_and_through_a_kill(sweeper, tmp_path):
    asked = [{"question": "Who is" + " it" * (n % 9) + "?", "answers": [str(n)]} for n in range(8)]
    stream = str(write_lines(tmp_path / "stream.jsonl", *asked))
    packed = dict(stream=stream, pack=True, slots="16", lr="smf:30/full:1e-2", methods="smf,full")
    assert sweeper(tmp_path / "1", devices=1, **packed) == 0
    rows = rows_of(tmp_path / "1")
    assert len(rows) == 4 and all(row["loss_last"] < row["loss_first"] for row in rows)
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, "after a save", 2)
        with pytest.raises(Killed):
            sweeper(tmp_path / "2", devices=2, **packed)
    assert sweeper(tmp_path / "2", devices=2, resume=True, **packed) == 0
    assert_same_run(tmp_path / "2", tmp_path / "1")
