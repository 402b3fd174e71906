"""Flags to configurations, and the words of their errors."""

from __future__ import annotations

import dataclasses

import pytest

from smf_jax.continual.config import (
    MemoryFlags,
    PretrainFlags,
    RetrofitFlags,
    SweepFlags,
    memory_config,
    parse_layers,
)
from smf_jax.data.world.world import make_world


def test_layers_are_read_and_named():
    assert parse_layers("6, 12,18", "layers") == (6, 12, 18)
    assert parse_layers("", "layers") == ()
    with pytest.raises(ValueError, match="--layers=6;12: expected layer numbers"):
        parse_layers("6;12", "layers")


def test_the_placement_is_that_of_the_flags():
    flags = MemoryFlags(retrofit="add", layers="3,1", alpha=0.5, shared_pool=True, keys_per_half=8)
    placement = flags.placement(width=24, layers=4)
    assert (placement.layers, placement.mode, placement.alpha) == ((1, 3), "add", 0.5)
    assert placement.shared_pool
    assert placement.memory.slots == 64
    assert placement.memory.value_width == 24  # 0 stands for the model's width
    assert [MemoryFlags(retrofit="add").placement(24, n).layers for n in (24, 2, 1)] == [
        (6, 12, 18),
        (0, 1),
        (0,),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(layers="0,4"), "--layers=0,4: layers .4. are outside .* layers 0 to 3"),
        (dict(layers="-1"), "--layers=-1: layers .-1. are outside"),
        (dict(layers="1,1"), "--layers=.1, 1. names a layer twice"),
        (dict(reads=9, keys_per_half=8), "--reads=9 per head exceed keys_per_half=8; .*k <= n"),
        (dict(keys_per_half=0), "--keys_per_half=0 must be at least 1"),
        (dict(memory_heads=0), "--memory_heads=0: expected at least 1"),
        (dict(key_width=5), "--key_width=5 must be even"),
        (dict(gate="tanh"), "--gate='tanh' is unknown; choose from"),
        (dict(query_norm="group", qk_norm=False), "--query_norm='group' is unknown"),
        (dict(query_norm="rms"), "--qk_norm=True and query_norm='rms'"),
        (dict(query_norm="batch"), "--qk_norm=True and query_norm='batch'"),
        (dict(score="max"), "--score='max' is unknown"),
        (dict(output_norm="rms"), "--output_norm='rms' is unknown"),
    ],
)
def test_a_memory_that_cannot_be_is_refused_by_flag(changes, message):
    with pytest.raises(ValueError, match=message):
        MemoryFlags(**{"retrofit": "add", **changes}).placement(24, 4)


def test_pretraining_and_retrofits_describe_the_same_memory():
    names = {each.name for each in dataclasses.fields(MemoryFlags)}
    shared = names & {each.name for each in dataclasses.fields(PretrainFlags)} - {"layers"}
    assert {"keys_per_half", "memory_heads", "reads", "key_width", "gate", "score"} <= shared
    assert memory_config(PretrainFlags(), 128) == memory_config(MemoryFlags(), 128)
    for name in shared:
        assert getattr(PretrainFlags(), name) == getattr(MemoryFlags(), name), name


def test_a_recipe_is_all_but_where_the_base_goes():
    flags = PretrainFlags(out="a", overwrite=True, seed=3, texts="b")
    recipe = flags.recipe()
    elsewhere = {"out", "overwrite", "preset", "scale"}
    assert recipe.keys() == {each.name for each in dataclasses.fields(flags)} - elsewhere
    assert PretrainFlags(**recipe) == dataclasses.replace(flags, out="", overwrite=False)


def test_the_stream_does_not_change_what_the_base_is_taught():
    flags = PretrainFlags(known_facts=24, relations=4, world_seed=2)
    alone, streamed = (make_world(flags.world(tasks, 4)) for tasks in (0, 3))
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
        PretrainFlags(**changes).world(**given)


@pytest.mark.parametrize("flags", [SweepFlags, PretrainFlags, RetrofitFlags])
def test_no_two_flags_of_a_command_are_one(flags):
    names = [each.name for each in dataclasses.fields(flags)]
    assert len(names) == len(set(names))
    assert not any(name.startswith("no") and name[2:] in names for name in names)
