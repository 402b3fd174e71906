"""EWC in a sweep: its importance is kept between tasks, over a kill, and out of the model."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from smf_jax import checkpoints
from smf_jax.bases.base import load_base
from smf_jax.continual.comparison import compare
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.run_directory import RunDirectory
from tests.tiny_sweep import checkpoints_of, rows_of

TWO = dict(methods="ewc", lr="1e-2", optimizer="adam", ewc_strength=10.0)
TRIAL = "ewc-adam-lr0.01-s0"


@pytest.fixture(scope="module")
def whole(sweeper, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "ewc"
    assert sweeper(out, **TWO) == 0
    return out


def test_what_earlier_tasks_need_is_carried_and_no_part_of_the_model(whole):
    base = load_base(str(whole / "base"), "base")
    places = [whole / "trials" / TRIAL / f"task_{task:02d}" for task in (0, 1)]
    first, second = (checkpoints.load(place)[0] for place in places)
    for path in base.params:
        now, later = (saved[f"carried/importance/{path}"] for saved in (first, second))
        assert np.all(now >= 0) and np.all(later >= now)
    assert any(np.any(second[f"carried/importance/{path}"] > 0) for path in base.params)
    run = RunDirectory(str(whole))
    params = run.load_model(*run.find_trial(TRIAL), base.params, base.fingerprint())
    assert params.keys() == base.params.keys()
    assert all("carried" not in change.path for change in compare(*places).changed)


def test_a_resume_after_the_first_task_gives_the_bits_of_the_whole_run(sweeper, whole, tmp_path):
    out = tmp_path / "killed"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "trials" / TRIAL / "task_01")
    lines = (out / "results.jsonl").read_text().splitlines(keepends=True)
    (out / "results.jsonl").write_text(lines[0])
    assert sweeper(out, resume=True, **TWO) == 0
    assert rows_of(out) == rows_of(whole)
    assert checkpoints_of(out) == checkpoints_of(whole)


def test_a_strength_below_zero_is_refused():
    with pytest.raises(ValueError, match="--ewc_strength=-1.0: expected at least 0"):
        SweepConfig.of(ewc_strength=-1.0)
