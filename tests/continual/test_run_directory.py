"""The directory of a run: what may be opened, what a resume finds, what a kill leaves."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from smf_jax import checkpoints
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.results import ResultRow
from smf_jax.continual.run_directory import CONFIG, EARLIER, NOT_COMPARED, RESULTS, RunDirectory
from smf_jax.continual.trial import Trial
from tests.fixtures import make_rows
from tests.tiny_sweep import content

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


def test_a_resume_compares_what_decides_the_numbers(run):
    same = CONFIGURATION.with_values(out="b", resume=True, shard="1/2")
    run.check(same)
    with pytest.raises(ValueError, match="with other flags: --seeds was '0', is '1', --slots was"):
        run.check(same.with_values(slots="64", seeds="1"))
    with pytest.raises(ValueError, match="--rule was '', is 'tf'"):
        run.check(same.with_values(rule="tf"))


def test_a_run_of_an_earlier_version_had_later_settings_at_their_defaults(run):
    before = told(run)
    del before["heal_routing"], before["eval_batch_size"], before["inputs"], before["sha256"]
    # Where no dtype was told, float32 was written.
    (run.path / CONFIG).write_text(json.dumps(before | {"probe_rows": 7, "dtype": "float32"}))
    run.check(CONFIGURATION.with_values(resume=True))
    assert run.config() == CONFIGURATION.with_values(dtype="float32")
    with pytest.raises(ValueError, match="--dtype was 'float32', is 'bfloat16'"):
        run.check(CONFIGURATION.with_values(resume=True, dtype="bfloat16"))
    with pytest.raises(ValueError, match="--heal_routing was False, is True"):
        run.check(CONFIGURATION.with_values(resume=True, heal_routing=True))


def test_a_run_from_before_rows_could_start_at_zero_had_normal_ones(tmp_path):
    run, added = RunDirectory(str(tmp_path / "run")), SweepConfig.of(retrofit="add")
    run.open(added.with_values(memory_init="normal"))
    before = told(run)
    assert (before["alpha"], before["gate"], before["heal_steps"]) == (0.01, "silu", 200)
    del before["memory_init"], before["sha256"]
    (run.path / CONFIG).write_text(json.dumps(before))
    again = added.with_values(resume=True)
    run.check(again.with_values(memory_init="normal"))
    with pytest.raises(ValueError, match="--memory_init was 'normal', is 'zero'"):
        run.check(again)
    run.check(run.as_it_began(again))


def test_a_run_from_before_a_setting_goes_on_as_it_began(run):
    config = CONFIGURATION.with_values(resume=True)
    assert run.as_it_began(config) == config
    before = {n: each for n, each in told(run).items() if n not in (*EARLIER, "sha256")}
    (run.path / CONFIG).write_text(json.dumps(before))
    assert run.config().values() == {**CONFIGURATION.resolved().values(), **EARLIER}
    with pytest.raises(ValueError, match="--background_formats was 'none', is 'auto'"):
        run.check(config)
    run.check(run.as_it_began(config))
    # What is asked for by name is another run, and one that replaces it is new.
    with pytest.raises(ValueError, match="--background_formats was 'none', is 'stream'"):
        run.check(run.as_it_began(config.with_values(background_formats="stream")))
    new = CONFIGURATION.with_values(overwrite=True)
    assert run.as_it_began(new) == new


def test_flags_that_are_not_compared_exist():
    flags = SweepConfig().values().keys() | {"versions", "python", "inputs"}
    assert flags | {"probe_rows"} == flags | NOT_COMPARED


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


def test_numbers_that_are_not_finite_are_null(run):
    run.append(row_of(SMF, 0, loss_first=math.nan, known=math.inf, retention=[0.5]))
    (row,) = run.rows()
    assert (row["loss_first"], row["known"], row["retention"]) == (None, None, [0.5])
    assert "NaN" not in (run.path / RESULTS).read_text()


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


@pytest.mark.parametrize("joined", [b"", b"\x0b", b"*", b"J", b"\r"])
def test_a_damaged_line_is_named_and_never_dropped(run, joined):
    finish(run, FULL, 0, 1)
    results = run.path / RESULTS
    first, second = results.read_bytes().splitlines()
    again = CONFIGURATION.with_values(resume=True)
    damaged = [
        (first[:30] + b"\n" + first[30:] + b"\n" + second, 1),
        (first + b"\n" + second[:40] + joined + second[41:] + b"\n", 2),
        (first + b"\n" + second.replace(b'"seen": 0.9', b'"seen": 0.8') + b"\n", 2),
    ]
    if joined not in (b"", b"\r"):  # the end of a line became something else
        damaged += [(first + b"\n" + second + joined, 2), (first + joined + second + b"\n", 1)]
    for content_, line in damaged:
        results.write_bytes(content_)
        with pytest.raises(ValueError, match=f"{RESULTS}, line {line}: .*restore a copy"):
            run.rows()
        with pytest.raises(ValueError, match=f"{RESULTS}, line {line}: "):
            RunDirectory(str(run.path)).check(again)
        assert results.read_bytes() == content_


def test_rows_may_be_filtered_and_edited_on_purpose(run):
    finish(run, FULL, 0, 1)
    finish(run, SMF, 0)
    results = run.path / RESULTS
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert all(line.pop("sha256") for line in lines)
    results.write_text("".join(json.dumps(line) + "\n" for line in lines[1:]) + "\n")
    assert run.rows() == lines[1:]


def test_a_damaged_configuration_is_named(run):
    file = run.path / CONFIG
    text = file.read_text()
    for damaged in (text.replace('"seeds": "0"', '"seeds": "1"'), text.replace("{", "z", 1)):
        file.write_text(damaged)
        for given in (dict(resume=True), dict(overwrite=True)):
            with pytest.raises(ValueError, match=f"{CONFIG}: .*restore a copy"):
                run.check(CONFIGURATION.with_values(**given))
        with pytest.raises(ValueError, match=f"{CONFIG}: .*restore a copy"):
            run.config()
        assert file.read_text() == damaged


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


def test_rows_that_are_run_again_are_forgotten(run):
    run.forget(SMF, 0)  # nothing yet
    finish(run, SMF, 0, 1, 2)
    finish(run, FULL, 0, 1)
    run.forget(SMF, 1)
    assert [(r["trial"], r["task"]) for r in run.rows()] == [
        (SMF.id, 0),
        (FULL.id, 0),
        (FULL.id, 1),
    ]


def test_shards_write_files_of_their_own_and_read_all(tmp_path):
    shards = [RunDirectory(str(tmp_path / "run"), f"{n}/2") for n in (0, 1)]
    for run, trial in zip(shards, (SMF, FULL), strict=True):
        run.open(CONFIGURATION.with_values(resume=True))
        finish(run, trial, 0)
    assert [row["trial"] for row in shards[0].rows()] == [SMF.id, FULL.id]
    with (tmp_path / "run" / "results-1-of-2.jsonl").open("a") as file:
        file.write('{"trial": ')  # the other machine is in the middle of a line
    shards[0].open(CONFIGURATION.with_values(resume=True))
    assert len(shards[0].rows()) == 2
    assert (tmp_path / "run" / "results-1-of-2.jsonl").read_text().endswith('{"trial": ')
    shards[0].forget(SMF, 1)
    assert len(shards[0].rows()) == 2
    shards[0].forget(FULL, 0)  # left by a share of another number, which had this trial
    assert [row["trial"] for row in shards[1].rows()] == [SMF.id]


def test_leaves_are_kept_with_what_they_are(run):
    params = {"a/b": np.arange(3.0)}
    for task in (0, 1):
        run.save_params(FULL, task, params, "mark")
    metadata = checkpoints.read_metadata(run.task_path(FULL, 1))
    assert metadata["kind"] == "leaves" and metadata["base"] == "mark"
    assert metadata.items() >= FULL.to_row().items()
    np.testing.assert_array_equal(run.load_params(FULL, 1)["a/b"], params["a/b"])
    run.drop_params_before(FULL, 1)
    assert [path.name for path in run.task_path(FULL, 0).parent.iterdir()] == ["task_01"]
    finish(run, SMF, 0, 1)
    run.drop_params_before(SMF, 1)
    assert run.completed(SMF) == (2, None)


def test_half_a_checkpoint_is_replaced(run):
    run.save_params(FULL, 0, {"a": np.zeros(2)}, "mark")
    remove(run.task_path(FULL, 0) / "manifest")
    run.save_params(FULL, 0, {"a": np.ones(2)}, "mark")
    np.testing.assert_array_equal(run.load_params(FULL, 0)["a"], np.ones(2))


def remove(path: Path) -> None:
    """Removes a file or a directory."""
    for each in path.iterdir() if path.is_dir() else ():
        remove(each)
    path.rmdir() if path.is_dir() else path.unlink()
