import json

import pytest

from benchmarks import random_checkpoint, real_size
from benchmarks.random_checkpoint import SHAPES, RandomFlags
from benchmarks.real_size import RealSizeFlags
from experiments.cli import parse
from smf_jax.models.decoder import abstract_params
from smf_jax.params import count_parameters

TINY = dict(
    layers="1,3",
    keys_per_half=8,
    memory_heads=2,
    reads=3,
    key_width=8,
    budget=16,
    batch_size=2,
    length=12,
    background_batches=2,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    out = tmp_path_factory.mktemp("real") / "tiny"
    assert random_checkpoint.main(RandomFlags(out=str(out), shape="tiny", shard_mb=1)) == 0
    return out


def flags_of(*arguments: str) -> RealSizeFlags:
    return parse(RealSizeFlags, arguments)[0]


@pytest.mark.parametrize(
    ("preset", "mode", "rule", "granularity"),
    [
        ("goyal2026", "replace", "kl_df", "per_step"),
        ("smf-icml2026", "add", "kl_acc", "per_micro_batch"),
        ("smf-icml2026-replace", "replace", "kl_acc", "per_micro_batch"),
    ],
)
def test_presets_set_memory_and_steps_but_not_the_batch(preset, mode, rule, granularity):
    flags = flags_of(f"--preset={preset}", "--seed=3")
    assert (flags.retrofit, flags.layers, flags.rule) == (mode, "6,12,18", rule)
    assert (flags.granularity, flags.optimizer) == (granularity, "adamw")
    assert (flags.budget, flags.learning_rate, flags.seed) == (512, 5e-4, 3)
    assert (flags.batch_size, flags.length, flags.steps) == (4, 128, 3)
    config = SHAPES["qwen2.5-0.5b"]
    placed = config.with_memory(flags.placement(config.width, config.layers))
    numbers = count_parameters(abstract_params(placed)["memory"])
    assert numbers == 52_011_264 + (3 if mode == "add" else 0)
    assert flags_of(f"--preset={preset}", "--rule=tf", "--budget=64").rule == "tf"


def test_presets_with_a_memory_from_the_start_are_refused():
    with pytest.raises(ValueError, match="--preset=pkm2019 has its memory from the start"):
        flags_of("--preset=pkm2019")


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_the_memory_has_its_published_size(mode):
    config = SHAPES["qwen2.5-0.5b"]
    flags = RealSizeFlags(retrofit=mode)
    placed = config.with_memory(flags.placement(config.width, config.layers))
    memory = abstract_params(placed)["memory"]
    scales = 3 if mode == "add" else 0
    assert count_parameters(memory) == 52_011_264 + scales
    assert count_parameters(memory["layer_12"]) + count_parameters(memory["pool_12"]) == (
        17_337_088 + scales // 3
    )


def test_it_takes_steps_and_reports(checkpoint, tmp_path, capsys):
    flags = RealSizeFlags(base=str(checkpoint), out=str(tmp_path / "report.json"), **TINY)
    assert real_size.main(flags) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "report.json").read_text())
    parts = ["load", "retrofit", "background", "step 1", "step 2", "step 3"]
    assert list(report["parts"]) == parts
    assert all(part["peak_gib"] <= report["peak_gib"] for part in report["parts"].values())
    assert len(report["losses"]) == 3
    assert report["rows_written"] == [32, 32, 32]
    assert report["parameters"] > report["memory"] > 0


def test_more_memory_than_allowed_is_told_by_the_exit_status(checkpoint, monkeypatch, capsys):
    found = {"peak_gib": 12.5}
    monkeypatch.setattr(real_size, "measure", lambda _: found)
    assert real_size.main(RealSizeFlags(base=str(checkpoint), **TINY)) == 1
    assert json.loads(capsys.readouterr().out) == found


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"base": "nowhere"}, "--base=nowhere: .* does not exist"),
        ({"retrofit": "none"}, "--retrofit=none is unknown; choose add or replace"),
        ({"param_dtype": "int8"}, "--param_dtype=int8 is unknown"),
        ({"rule": "best"}, "--rule=best is unknown"),
        ({"optimizer": "lion"}, "--optimizer=lion is unknown"),
        ({"budget": 0}, "--budget=0: expected at least 1"),
        ({"learning_rate": 0.0}, "--learning_rate=0.0: expected a number above 0"),
        ({"granularity": "per_task"}, "--granularity=per_task is unknown"),
        ({"granularity": "per_micro_batch"}, "--granularity=.* and --micro_batches=1 exclude"),
        ({"micro_batches": 3}, "--micro_batches=3 does not divide --batch_size=2"),
        ({"layers": "6,12,18"}, r"--layers=6,12,18: layers \[6, 12, 18\] are outside"),
    ],
)
def test_bad_flags_are_refused(flags, message, checkpoint, monkeypatch):
    monkeypatch.setattr(real_size, "measure", None)
    given = {"base": str(checkpoint)} | TINY | flags
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        real_size.main(RealSizeFlags(**given))
