"""The configurations of the commands: what they share, and what a recipe is."""

from __future__ import annotations

import pytest

from smf_jax.configuration import flags_of
from smf_jax.continual.config import PretrainConfig, RetrofitCommandConfig, SweepConfig
from smf_jax.continual.methods import METHODS
from smf_jax.data.world.world import make_world


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


def test_a_recipe_is_all_but_where_the_base_goes():
    config = PretrainConfig.of(out="a", overwrite=True, seed=3, texts="b")
    recipe = config.recipe()
    assert recipe.keys() == flags_of(config).keys() - {"out", "overwrite", "preset", "scale"}
    assert PretrainConfig.of(**recipe) == config.with_values(out="", overwrite=False)


def test_the_stream_does_not_change_what_the_base_is_taught():
    config = PretrainConfig.of(known_facts=24, relations=4, world_seed=2)
    alone, streamed = (make_world(config.world_config(tasks, 4)) for tasks in (0, 3))
    assert alone.known == streamed.known
    assert list(alone.texts()) == list(streamed.texts())
    assert len(streamed.tasks) == 3 and not alone.changed and streamed.changed


@pytest.mark.parametrize(
    ("changes", "given", "message"),
    [
        (dict(known_facts=3, relations=4), {}, "--known_facts=3 with relations=4"),
        (dict(relations=99), {}, "--relations=99"),
        ({}, dict(changed=1.5), "--changed_share=1.5: expected 0 to 1"),
        ({}, dict(facts_per_task=0), "--facts_per_task=0: expected at least 1"),
        (dict(known_facts=24, relations=4), dict(tasks=9), "--changed_share=0.2 of 9 tasks"),
    ],
)
def test_a_world_that_cannot_be_is_refused_by_flag(changes, given, message):
    with pytest.raises(ValueError, match=message):
        PretrainConfig.of(**changes).world_config(**given)


@pytest.mark.parametrize("config", [SweepConfig, PretrainConfig, RetrofitCommandConfig])
def test_no_flag_of_a_command_is_the_negation_of_another(config):
    names = flags_of(config())
    assert not any(name.startswith("no") and name[2:] in names for name in names)


def test_what_holds_between_settings_is_checked_at_once():
    with pytest.raises(ValueError, match="--warmup_steps=30 leaves no step of --schedule=cosine"):
        SweepConfig.of(schedule="cosine", warmup_steps=30)
    assert SweepConfig.of(schedule="cosine", warmup_steps=30, steps_per_task=31)
    with pytest.raises(ValueError, match="--probe_limit=0: expected at least 1"):
        SweepConfig.of(probe_limit=0)
