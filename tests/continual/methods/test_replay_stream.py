"""Replay of the stream in a sweep: nothing before the second task, then its share of what was."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from smf_jax.bases.base import load_base
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.methods import METHODS
from smf_jax.continual.stream_data import load_stream_data
from tests.tiny_sweep import TINY_SWEEP, checkpoints_of, rows_of

TWO = dict(methods="replay_stream,full", lr="1e-2", optimizer="adamw")
TRIAL = "replay_stream-adamw-lr0.01-s0"


@pytest.fixture(scope="module")
def whole(sweeper, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "replay_stream"
    assert sweeper(out, replay_stream_share=0.5, **TWO) == 0
    return out


def test_the_first_task_is_that_of_full_finetuning_and_the_second_is_not(whole, sweeper):
    def trained(method, task):
        return sweeper.trained[whole.name, TRIAL.replace("replay_stream", method), task]

    def same(task):
        ours, theirs = (trained(method, task) for method in ("replay_stream", "full"))
        return all(np.array_equal(ours[path], theirs[path]) for path in theirs)

    assert same(0) and not same(1)
    first, second = (row for row in rows_of(whole) if row["trial"] == TRIAL)
    assert first["failed_step"] is None and second["failed_step"] is None


def test_a_resume_after_the_first_task_draws_the_same_facts(sweeper, whole, tmp_path):
    out = tmp_path / "killed"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "trials" / TRIAL / "task_01")
    assert sweeper(out, resume=True, replay_stream_share=0.5, **TWO) == 0
    assert rows_of(out) == rows_of(whole)
    assert checkpoints_of(out) == checkpoints_of(whole)


def test_batches_hold_the_share_of_earlier_tasks(tiny_base):
    base = load_base(str(tiny_base), "base")
    data = load_stream_data(SweepConfig.of(**TINY_SWEEP), base)
    own = SweepConfig.of(replay_stream_share=0.1).own("replay_stream")
    share = METHODS["replay_stream"].earlier_share(own)
    assert share == 0.1 and METHODS["full"].earlier_share(None) == 0
    of_first = {row.tobytes() for row in data.examples[0].tokens}
    batches = data.batches(1, 0, 10, 16, 0, earlier=share)
    found = [[row.tobytes() in of_first for row in step] for step in batches.tokens]
    assert np.sum(found) == 16 and set(np.sum(found, axis=1)) == {1, 2}
    plain, first = data.batches(0, 0, 10, 16, 0), data.batches(0, 0, 10, 16, 0, earlier=share)
    np.testing.assert_array_equal(plain.tokens, first.tokens)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match=f"--replay_stream_share={share}: expected a share"):
        SweepConfig.of(replay_stream_share=share)
