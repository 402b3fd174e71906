"""The configurations of the commands: what they share, and what a recipe is."""

from __future__ import annotations

import pytest

from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.bases.retrofit_config import RetrofitCommandConfig
from smf_jax.configuration import flags_of
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.methods import METHODS


def test_pretraining_and_retrofits_describe_the_same_memory():
    normal = SweepConfig.of(memory_init="normal").resolved()
    assert PretrainConfig().memory.memory == normal.retrofit.memory
    assert SweepConfig().retrofit.memory == RetrofitCommandConfig().retrofit.memory
    memory = {"keys_per_half", "memory_heads", "reads", "key_width", "value_width", "gate"}
    for config in (PretrainConfig(), SweepConfig(), RetrofitCommandConfig()):
        assert memory <= flags_of(config).keys()


def test_the_settings_of_every_method_are_flags():
    flags = flags_of(SweepConfig())
    assert {"lora_rank", "replay_share", "train_alpha"} <= flags.keys()
    assert flags["lora_rank"].heading == f"Method lora: {METHODS['lora'].about}"


@pytest.mark.parametrize("config", [SweepConfig, PretrainConfig, RetrofitCommandConfig])
def test_no_flag_of_a_command_is_the_negation_of_another(config):
    names = flags_of(config())
    assert not any(name.startswith("no") and name[2:] in names for name in names)


def test_what_holds_between_settings_is_checked_at_once():
    with pytest.raises(ValueError, match="--warmup_steps=30 leaves no step of --schedule=cosine"):
        SweepConfig.of(schedule="cosine", warmup_steps=30)
    assert SweepConfig.of(schedule="cosine", warmup_steps=30, steps_per_task=31)
    for of_a_task in (dict(schedule="cosine"), dict(warmup_steps=3)):
        with pytest.raises(ValueError, match="--keep_optimizer_state counts steps on .* leave out"):
            SweepConfig.of(keep_optimizer_state=True, **of_a_task)
    with pytest.raises(ValueError, match="--probe_limit=0: expected at least 1"):
        SweepConfig.of(probe_limit=0)
