"""The example of a patch that is shipped, on the tiny base."""

from __future__ import annotations

import smf_jax as smf
from examples import ship_a_patch
from tests.tiny_sweep import on_devices


def test_a_patch_arrives_and_another_base_refuses_it(tiny_base, tmp_path, monkeypatch, capsys):
    # A base of one block and 24 facts needs more than the example's bases do.
    config = smf.SparseConfig(rule="tf", optimizer=smf.OptimizerConfig("adamw"))
    how = {"config": config, "steps": 100, "learning_rate": 0.3, "budget": 256}
    monkeypatch.setattr(ship_a_patch, "HOW", how)
    with on_devices(1):
        ship_a_patch.main(str(tiny_base), str(tmp_path))
    told = capsys.readouterr().out
    assert "leaves from Lisbon" in told
    assert "another base: patch 'night train'" in told and "rows differ" in told
    assert (tmp_path / "night_train.safetensors").stat().st_size < 200_000
