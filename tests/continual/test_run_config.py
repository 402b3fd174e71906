"""What a run was told: what a resume compares, earlier versions, damage."""

from __future__ import annotations

import json

import pytest

from smf_jax.continual.config import SweepConfig
from smf_jax.continual.run_config import CONFIG, EARLIER, NOT_COMPARED
from smf_jax.continual.run_directory import RunDirectory
from tests.continual.tiny_run import CONFIGURATION, run, told

__all__ = ["run"]


def test_a_resume_compares_what_decides_the_numbers(run):
    same = CONFIGURATION.with_values(out="b", resume=True, shard="1/2")
    run.check(same)
    with pytest.raises(ValueError, match="with other flags: --seeds was '0', is '1', --slots was"):
        run.check(same.with_values(slots="64", seeds="1"))
    with pytest.raises(ValueError, match="--rule was '', is 'tf'"):
        run.check(same.with_values(rule="tf"))


def test_a_run_of_an_earlier_version_had_later_settings_at_their_defaults(run):
    before = told(run)
    del before["heal_routing"], before["eval_batch_size"], before["inputs"], before["sha256"]
    # Where no dtype was told, float32 was written.
    (run.path / CONFIG).write_text(json.dumps(before | {"probe_rows": 7, "dtype": "float32"}))
    run.check(CONFIGURATION.with_values(resume=True))
    assert run.config() == CONFIGURATION.with_values(dtype="float32")
    with pytest.raises(ValueError, match="--dtype was 'float32', is 'bfloat16'"):
        run.check(CONFIGURATION.with_values(resume=True, dtype="bfloat16"))
    with pytest.raises(ValueError, match="--heal_routing was False, is True"):
        run.check(CONFIGURATION.with_values(resume=True, heal_routing=True))


def test_a_run_from_before_rows_could_start_at_zero_had_normal_ones(tmp_path):
    run, added = RunDirectory(str(tmp_path / "run")), SweepConfig.of(retrofit="add")
    run.open(added.with_values(memory_init="normal"))
    before = told(run)
    assert (before["alpha"], before["gate"], before["heal_steps"]) == (0.01, "silu", 200)
    del before["memory_init"], before["sha256"]
    (run.path / CONFIG).write_text(json.dumps(before))
    again = added.with_values(resume=True)
    run.check(again.with_values(memory_init="normal"))
    with pytest.raises(ValueError, match="--memory_init was 'normal', is 'zero'"):
        run.check(again)
    run.check(run.as_it_began(again))


def test_a_run_from_before_a_setting_goes_on_as_it_began(run):
    config = CONFIGURATION.with_values(resume=True)
    assert run.as_it_began(config) == config
    before = {n: each for n, each in told(run).items() if n not in (*EARLIER, "sha256")}
    (run.path / CONFIG).write_text(json.dumps(before))
    assert run.config().values() == {**CONFIGURATION.resolved().values(), **EARLIER}
    with pytest.raises(ValueError, match="--background_formats was 'none', is 'auto'"):
        run.check(config)
    run.check(run.as_it_began(config))
    # What is asked for by name is another run, and one that replaces it is new.
    with pytest.raises(ValueError, match="--background_formats was 'none', is 'stream'"):
        run.check(run.as_it_began(config.with_values(background_formats="stream")))
    new = CONFIGURATION.with_values(overwrite=True)
    assert run.as_it_began(new) == new


def test_flags_that_are_not_compared_exist():
    flags = SweepConfig().values().keys() | {"versions", "python", "inputs"}
    assert flags | {"probe_rows"} == flags | NOT_COMPARED


def test_a_damaged_configuration_is_named(run):
    file = run.path / CONFIG
    text = file.read_text()
    for damaged in (text.replace('"seeds": "0"', '"seeds": "1"'), text.replace("{", "z", 1)):
        file.write_text(damaged)
        for given in (dict(resume=True), dict(overwrite=True)):
            with pytest.raises(ValueError, match=f"{CONFIG}: .*restore a copy"):
                run.check(CONFIGURATION.with_values(**given))
        with pytest.raises(ValueError, match=f"{CONFIG}: .*restore a copy"):
            run.config()
        assert file.read_text() == damaged
