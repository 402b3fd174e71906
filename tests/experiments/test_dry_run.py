"""What would run is listed, checked and timed, and nothing of it runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from experiments import ablate, sweep
from experiments.ablate import AblateConfig
from experiments.dry_run import trials_of
from smf_jax.continual.config import SweepConfig
from tests.fixtures import NO_COMPUTE
from tests.tiny_sweep import TINY_SWEEP, on_devices, write_lines


def grid_file(tmp_path, settings: dict[str, Any], **cross: list[Any]) -> str:
    path = tmp_path / "grid.toml"
    parts = [("settings", settings), ("cross", cross)]
    lines = [
        line
        for name, told in parts
        for line in (f"[{name}]", *(f"{key} = {json.dumps(each)}" for key, each in told.items()))
    ]
    path.write_text("\n".join(lines))
    return str(path)


def settings(sweeper, **more) -> dict[str, Any]:
    told = {**TINY_SWEEP, "base": str(sweeper.base), "methods": "smf", "optimizer": "sgd"}
    return {**told, "lr": "30", "slots": "16", **more}


def test_a_sweep_lists_its_trials_and_computes_nothing(sweeper, tmp_path, capsys):
    out = tmp_path / "run"
    config = sweeper.config(out, dry_run=True, shard="1/2")
    assert sweep.main(config, NO_COMPUTE) == 0
    told = capsys.readouterr().out
    assert told.startswith("run: ") and "1 sweeps, 3 trials" in told
    assert all(trial.id in told for trial in trials_of(config))
    assert list(tmp_path.iterdir()) == []


def test_hours_are_predicted_from_steps_of_each_group(sweeper, tmp_path, capsys):
    file = grid_file(tmp_path, settings(sweeper, seeds="0,1,2"), methods=["smf", "full"])
    out = tmp_path / "out"
    told = AblateConfig((file,), out=str(out), dry_run=True, calibrate=True)
    with on_devices(2):
        assert ablate.main(told, sweeper.tools) == 0
    assert not out.exists()
    said = capsys.readouterr().out
    assert "an estimate, from a few timed steps of each group" in said
    found = json.loads((tmp_path / "out.estimate.json").read_text())
    assert found["devices"] == "2 cpu" and "estimate" in found["note"]
    assert [each["sweep"] for each in found["sweeps"]] == ["methodssmf", "methodsfull"]
    for each in found["sweeps"]:
        (group,) = each["groups"]
        assert len(group["trials"]) == 3 and group["rounds"] == 2  # of two devices
        assert (group["tasks"], group["steps"]) == (2, 6)
        a_task = group["task_seconds"] + 6 * group["step_seconds"] + group["evaluation"]["seconds"]
        compiling = group["compile_seconds"] + group["evaluation"]["compile_seconds"]
        assert group["hours"] == pytest.approx((compiling + 2 * 2 * a_task) / 3600)
        assert each["hours"] == group["hours"]
        assert f"{group['hours']:.3g} h" in said
    assert found["hours"] == pytest.approx(sum(each["hours"] for each in found["sweeps"]))
    assert f"in all {found['hours']:.3g} h on 2 cpu" in said


def test_a_calibration_is_no_run(tmp_path):
    with pytest.raises(ValueError, match="--calibrate=True: expected with --dry_run"):
        SweepConfig.of(calibrate=True)
    with pytest.raises(ValueError, match="--calibrate=True: expected with --dry_run"):
        AblateConfig(("grid.toml",), calibrate=True)


def test_settings_that_exclude_each_other_are_refused_in_the_list(sweeper, tmp_path):
    file = grid_file(tmp_path, settings(sweeper), rule=["tfidf", "tf"], max_df=[1.0, 0.5])
    for dry in (True, False):
        out = tmp_path / "out"
        with pytest.raises(ValueError, match="--rule='tf' and max_df=0.5 exclude each other: .*df"):
            ablate.main(AblateConfig((file,), out=str(out), dry_run=dry), lambda _: NO_COMPUTE)
        assert not out.exists()
    config = sweeper.config(out, methods="smf", rule="tf", max_df=0.5, dry_run=True)
    with pytest.raises(ValueError, match="--rule='tf' and max_df=0.5"):
        sweep.main(config, NO_COMPUTE)


def test_what_needs_a_background_or_a_base_is_refused_before_the_first_sweep(
    sweeper, plain_checkpoint, tmp_path
):
    asked = [{"question": f"Who made thing {n}?", "answers": [f"Maker {n}"]} for n in range(8)]
    stream = str(write_lines(tmp_path / "stream.jsonl", *asked))
    plain: dict[str, Any] = dict(base=str(plain_checkpoint), stream=stream, retrofit="add")
    plain |= dict(layers="0", keys_per_half=8, memory_heads=1, reads=2, probe_limit=4)
    out = tmp_path / "out"

    def refused(
        message: str, given: dict[str, Any], error: type[Exception] = ValueError, **cross
    ) -> None:
        file = grid_file(tmp_path, settings(sweeper, **given), **cross)
        with pytest.raises(error, match=message):
            ablate.main(AblateConfig((file,), out=str(out)), lambda _: NO_COMPUTE)
        assert not out.exists()

    refused("--background is empty and .* rule tfidf ranks", plain, rule=["tf", "tfidf"])
    refused("--base=.*nowhere", {}, FileNotFoundError, base=[str(sweeper.base), "nowhere"])
    refused("--slots=9999: this memory has 256 slots", {}, slots=["16", "9999"])
