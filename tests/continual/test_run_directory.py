"""The directory of a run: what may be opened, what a resume finds, what a kill leaves."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from smf_jax import checkpoints
from smf_jax.continual.results_files import RESULTS
from smf_jax.continual.run_config import CONFIG
from smf_jax.continual.run_directory import RunDirectory
from tests.continual.tiny_run import CONFIGURATION, FULL, SMF, finish, remove, run, told
from tests.tiny_sweep import content

__all__ = ["run"]


def test_a_directory_is_opened_once(run):
    assert CONFIGURATION.values().items() <= told(run).items()
    assert told(run)["versions"]["jax"] == jax.__version__
    assert run.config() == CONFIGURATION
    before = content(run.path)
    with pytest.raises(FileExistsError, match="--out=.* exists; give --resume .*--overwrite to"):
        run.open(CONFIGURATION)
    with pytest.raises(ValueError, match="--resume .* and --overwrite .* give one of them"):
        run.open(CONFIGURATION.with_values(resume=True, overwrite=True))
    assert content(run.path) == before


def test_overwriting_leaves_nothing_of_the_old_run(run):
    finish(run, SMF, 0)
    run.open(CONFIGURATION.with_values(slots="64", overwrite=True))
    assert [path.name for path in run.path.iterdir()] == [CONFIG]
    assert told(run)["slots"] == "64"


def test_a_check_touches_nothing(tmp_path):
    run = RunDirectory(str(tmp_path / "a" / "b"))
    run.check(CONFIGURATION.with_values(resume=True))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["file", "model", "home"])
@pytest.mark.parametrize("given", [dict(resume=True), dict(overwrite=True)])
def test_what_is_no_run_is_neither_resumed_nor_replaced(tmp_path, what, given):
    path = tmp_path / what
    if what == "file":
        path.write_text("precious")
    else:
        path.mkdir()
        text = {"model": '{"model_type": "llama"}', "home": "precious"}[what]
        (path / {"model": "config.json", "home": "notes.txt"}[what]).write_text(text)
    before = content(tmp_path)
    with pytest.raises(FileExistsError, match="exists and is no run, so it is neither"):
        RunDirectory(str(path)).open(CONFIGURATION.with_values(**given))
    assert content(tmp_path) == before


@pytest.mark.parametrize("path", ["", "."])
def test_the_working_directory_is_no_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="--out names no directory of its own"):
        RunDirectory(path).open(CONFIGURATION.with_values(overwrite=True))


def test_a_kill_before_the_first_word_can_be_resumed(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / f".{CONFIG}.12.partial").write_text("{")
    run = RunDirectory(str(path))
    run.open(CONFIGURATION.with_values(resume=True))
    assert run.config() == CONFIGURATION.with_values(resume=True)


def test_files_that_an_editor_gave_a_byte_order_mark_are_read(run):
    finish(run, FULL, 0, 1)
    for name in (CONFIG, RESULTS):
        file = run.path / name
        file.write_text(file.read_text(), encoding="utf-8-sig")
    assert [row["task"] for row in run.rows()] == [0, 1]
    assert run.config() == CONFIGURATION


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_line_that_was_cut_short_does_not_count(run, cut):
    finish(run, FULL, 0, 1)
    results = run.path / RESULTS
    first, second = results.read_text().splitlines(keepends=True)
    results.write_text(first + second[:cut])
    assert [row["task"] for row in run.rows()] == [0]
    assert run.completed(FULL) == (1, None)
    again = RunDirectory(str(run.path))
    again.open(CONFIGURATION.with_values(resume=True))
    assert results.read_text() == first  # or the next row would be appended to the cut one


def test_a_task_is_done_when_its_row_and_its_checkpoint_are_there(run):
    assert run.completed(SMF) == (0, None)
    finish(run, SMF, 0, 1, 2)
    finish(run, FULL, 0)
    assert run.completed(SMF) == (3, None)
    assert run.completed(FULL) == (1, None)
    checkpoints.save(run.task_path(FULL, 1), {"a": np.zeros(2)}, {})  # its row was not written
    assert run.completed(FULL) == (1, None)


def test_patches_are_all_needed_and_leaves_only_the_last(run):
    for trial in (SMF, FULL):
        finish(run, trial, 0, 1, 2)
        remove(run.task_path(trial, 0))
    assert run.completed(SMF) == (0, None)
    assert run.completed(FULL) == (3, None)
    remove(run.task_path(FULL, 2))
    assert run.completed(FULL) == (2, None)
    (run.task_path(FULL, 1) / "manifest").rename(run.path / "elsewhere")
    assert run.completed(FULL) == (0, None)


def test_a_failure_is_found_with_its_step(run):
    finish(run, SMF, 0, 1, failed=7)
    assert run.completed(SMF) == (1, 7)
    finish(run, FULL, 0, failed=0)
    assert run.completed(FULL) == (0, 0)
    remove(run.task_path(SMF, 0))
    assert run.completed(SMF) == (0, None)  # it has to be run again from there, and may fail again
