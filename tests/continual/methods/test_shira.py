"""SHiRA in a sweep: as many weights as asked, the others bit for bit, over a kill too."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from smf_jax.bases.base import load_base
from smf_jax.continual.run_directory import RunDirectory
from tests.tiny_sweep import rows_of

TWO = dict(methods="shira", lr="1e-2", optimizer="adam", shira_count=500, shira_targets="attention")
TRIAL = "shira-adam-lr0.01-s0"


@pytest.fixture(scope="module")
def whole(sweeper, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "shira"
    assert sweeper(out, **TWO) == 0
    return out


def test_no_more_than_the_chosen_weights_change(whole):
    base = load_base(str(whole / "base"), "base")
    run = RunDirectory(str(whole))
    found = run.load_model(*run.find_trial(TRIAL), base.params, base.fingerprint())
    changed = {p: int(np.sum(np.asarray(found[p] != base.params[p]))) for p in base.params}
    assert 450 < sum(changed.values()) <= 500
    kernels = [f"layers_0/attention/{name}/kernel" for name in ("key", "output", "query", "value")]
    assert [path for path, count in changed.items() if count] == kernels
    assert rows_of(whole)[1]["trainable_parameters"] == 500


def test_a_resume_after_the_first_task_gives_the_numbers_of_the_whole_run(sweeper, whole, tmp_path):
    out = tmp_path / "killed"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "trials" / TRIAL / "task_01")
    assert sweeper(out, resume=True, **TWO) == 0
    assert rows_of(out) == rows_of(whole)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (dict(shira_count=0, shira_share=1e-9), "--shira_share=1e-09 makes 0 of"),
        (dict(shira_targets="qkv"), "--shira_targets=.*'qkv'.*must name linear maps"),
        (dict(shira_share=1.5), "--shira_share=1.5: expected at most 1"),
    ],
)
def test_what_does_not_fit_is_named_by_its_flag(sweeper, tmp_path, changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        sweeper(tmp_path / "out", **{**TWO, **changes})
