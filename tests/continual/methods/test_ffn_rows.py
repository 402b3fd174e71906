"""Rows of feed-forwards in a sweep: no more rows than told, the others bit for bit."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from smf_jax.bases.base import load_base
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.training.ffn_rows import is_down
from tests.tiny_sweep import rows_of, write_lines

TRIAL = "ffn_rows-adam-lr0.01-s0"


@pytest.fixture(scope="module")
def told(plain_checkpoint, tmp_path_factory):
    asked = [{"question": f"Who made thing {n}?", "answers": [f"Maker {n}"]} for n in range(8)]
    stream = write_lines(tmp_path_factory.mktemp("files") / "stream.jsonl", *asked)
    of_stream = dict(base=str(plain_checkpoint), stream=str(stream), tasks=2, facts_per_task=4)
    method = dict(methods="ffn_rows", lr="1e-2", optimizer="adam", ffn_rows=7, ffn_rule="random")
    return {**of_stream, **method, "steps_per_task": 3}


@pytest.fixture(scope="module")
def whole(sweeper, told, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "ffn_rows"
    assert sweeper(out, **told) == 0
    return out


def test_no_more_than_the_rows_of_each_task_change(whole, plain_checkpoint):
    base = load_base(str(plain_checkpoint), "base")
    run, changed = RunDirectory(str(whole)), []
    for task in (0, 1):
        trial = run.find_trial(TRIAL)[0]
        found = run.load_model(trial, task, base.params, base.fingerprint())
        differ = {p: np.asarray(found[p] != leaf) for p, leaf in base.params.items()}
        assert not any(np.any(each) for path, each in differ.items() if not is_down(path))
        rows = {p: np.any(each, axis=1) for p, each in differ.items() if is_down(p)}
        changed.append(np.concatenate(list(rows.values())))
    assert changed[0].sum() == 7 and 7 < changed[1].sum() <= 14
    width = base.config.width
    assert [row["trainable_parameters"] for row in rows_of(whole)] == [7 * width] * 2


def test_a_resume_after_the_first_task_gives_the_numbers_of_the_whole_run(
    sweeper, told, whole, tmp_path
):
    out = tmp_path / "killed"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "trials" / TRIAL / "task_01")
    assert sweeper(out, resume=True, **told) == 0
    assert rows_of(out) == rows_of(whole)


def test_more_rows_than_there_are_are_refused_by_flag(sweeper, told, tmp_path):
    with pytest.raises(ValueError, match="--ffn_rows=9999: the feed-forwards of the base have"):
        sweeper(tmp_path / "out", **{**told, "ffn_rows": 9999})
