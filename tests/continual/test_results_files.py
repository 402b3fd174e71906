"""Rows of a run: what counts as one, shares, damage."""

from __future__ import annotations

import json
import math

import pytest

from smf_jax.continual.results_files import RESULTS
from smf_jax.continual.run_directory import RunDirectory
from tests.continual.tiny_run import CONFIGURATION, FULL, SMF, finish, row_of, run

__all__ = ["run"]


def test_numbers_that_are_not_finite_are_null(run):
    run.append(row_of(SMF, 0, loss_first=math.nan, known=math.inf, retention=[0.5]))
    (row,) = run.rows()
    assert (row["loss_first"], row["known"], row["retention"]) == (None, None, [0.5])
    assert "NaN" not in (run.path / RESULTS).read_text()


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
    for share, trial in zip(shards, (SMF, FULL), strict=True):
        share.open(CONFIGURATION.with_values(resume=True))
        finish(share, trial, 0)
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
