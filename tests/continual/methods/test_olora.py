"""O-LoRA in a sweep: adapters of all tasks are saved, merged, and gone on from."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from smf_jax.bases.base import load_base
from smf_jax.continual.comparison import compare
from smf_jax.continual.run_directory import RunDirectory
from tests.tiny_sweep import checkpoints_of, rows_of

TWO = dict(methods="olora", lr="1e-2", optimizer="adam", olora_targets="attention", olora_rank=4)
TRIAL = "olora-adam-lr0.01-s0"
QUERY = "layers_0/attention/query"


@pytest.fixture(scope="module")
def whole(sweeper, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "olora"
    assert sweeper(out, **TWO) == 0
    return out


def test_the_adapters_of_all_tasks_make_the_model(whole, sweeper):
    base = load_base(str(whole / "base"), "base")
    run = RunDirectory(str(whole))
    found = run.load_model(*run.find_trial(TRIAL), base.params, base.fingerprint())
    a, b = (np.asarray(sweeper.trained[whole.name, TRIAL, 1][f"{QUERY}/{half}"]) for half in "ab")
    assert a.shape == (32, 8) and np.any(b[:4]) and np.any(b[4:])
    expected = base.params[f"{QUERY}/kernel"] + a @ b * (16 / 4)
    np.testing.assert_allclose(found[f"{QUERY}/kernel"], expected, rtol=1e-4, atol=1e-6)
    assert rows_of(whole)[1]["trainable_parameters"] == 4 * (4 * 32 + 4 * 32)
    first, second = (whole / "trials" / TRIAL / f"task_{task:02d}" for task in (0, 1))
    assert all(change.path.startswith("adapters/") for change in compare(first, second).changed)


def test_a_resume_after_the_first_task_gives_the_bits_of_the_whole_run(sweeper, whole, tmp_path):
    out = tmp_path / "killed"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "trials" / TRIAL / "task_01")
    assert sweeper(out, resume=True, **TWO) == 0
    assert rows_of(out) == rows_of(whole)
    assert checkpoints_of(out) == checkpoints_of(whole)


def test_moments_that_outlive_a_task_are_refused(sweeper, tmp_path):
    with pytest.raises(ValueError, match="--keep_optimizer_state: the adapters of method olora"):
        sweeper(tmp_path / "out", keep_optimizer_state=True, **TWO)
