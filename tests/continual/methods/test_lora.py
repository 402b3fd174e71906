"""LoRA in a sweep: its rank as an axis, each of them its own model."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.report.write import write_report
from smf_jax.bases.base import load_base
from smf_jax.continual.methods.lora import LoraConfig
from smf_jax.continual.run_directory import RunDirectory
from tests.tiny_sweep import checkpoints_of, rows_of

TWO = dict(methods="lora", lr="1e-2", optimizer="adam", tasks=1, vary="lora_rank:8,3")
NARROW, USUAL = "lora-adam-rank3-lr0.01-s0", "lora-adam-lr0.01-s0"
QUERY = "layers_0/attention/query"


@pytest.fixture(scope="module")
def whole(sweeper, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "ranks"
    assert sweeper(out, **TWO) == 0
    return out


def test_each_rank_is_a_trial_with_its_own_adapters(whole, sweeper):
    rows = {row["trial"]: row for row in rows_of(whole)}
    assert rows.keys() == {NARROW, USUAL}
    assert rows[NARROW]["varied"] == {"lora_rank": 3} and rows[USUAL]["varied"] == {}
    saved = checkpoints_of(whole)
    base = load_base(str(whole / "base"), "base")
    for trial, rank in ((NARROW, 3), (USUAL, 8)):
        leaves, about = saved[f"trials/{trial}/task_00"]
        assert leaves[f"{QUERY}/a"].shape == (32, rank) and about["settings"]["rank"] == rank
        run = RunDirectory(str(whole))
        found = run.load_model(*run.find_trial(trial), base.params, base.fingerprint())
        a, b = (np.asarray(sweeper.trained[whole.name, trial, 0][f"{QUERY}/{x}"]) for x in "ab")
        merged = base.params[f"{QUERY}/kernel"] + a @ b * (16 / rank)
        np.testing.assert_allclose(found[f"{QUERY}/kernel"], merged, rtol=1e-4, atol=1e-6)


def test_a_resume_and_the_report_know_the_trials(whole, sweeper):
    before = rows_of(whole)
    assert sweeper(whole, resume=True, **TWO) == 0
    assert rows_of(whole) == before
    table = write_report(whole)
    assert "lora-adam-rank3-lr0.01" in table
    assert "lora, lora_rank=3" in (whole / "report.md").read_text()
    assert "lora_rank=3" in (whole / "summary.csv").read_text()


def test_targets_are_named_one_by_one_or_together():
    def modules(targets):
        return LoraConfig(targets=targets).modules

    assert modules("all") == LoraConfig().modules
    assert modules("mlp") == modules("gate+up,down") == ("gate", "up", "down")
    assert modules("query,attention") == ("query", "key", "value", "output")
