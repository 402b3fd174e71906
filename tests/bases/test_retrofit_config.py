"""Retrofits as configurations: layers, placements, and the words of their errors."""

from __future__ import annotations

import pytest

from smf_jax.bases.retrofit_config import RetrofitConfig, parse_layers


def retrofit(**changes) -> RetrofitConfig:
    return RetrofitConfig().with_values(**{"retrofit": "add", **changes})


def test_layers_are_read_and_named():
    assert parse_layers("6, 12,18", "layers") == (6, 12, 18)
    assert parse_layers("", "layers") == ()
    with pytest.raises(ValueError, match="--layers=6;12: expected layer numbers"):
        parse_layers("6;12", "layers")


def test_the_placement_is_that_of_the_flags():
    config = retrofit(layers="3,1", alpha=0.5, shared_pool=True, keys_per_half=8)
    placement = config.placement(width=24, layers=4)
    assert (placement.layers, placement.mode, placement.alpha) == ((1, 3), "add", 0.5)
    assert placement.shared_pool
    assert placement.memory.slots == 64
    assert placement.memory.value_width == 24  # 0 stands for the model's width
    assert [retrofit(keys_per_half=8).placement(24, n).layers for n in (24, 2, 1)] == [
        (6, 12, 18),
        (0, 1),
        (0,),
    ]


def told(**changes):
    config = RetrofitConfig().with_values(**changes).resolved()
    assert config.resolved() == config
    memory = config.memory
    return config.memory_init, config.alpha, memory.gate, config.heal_steps, memory.keys_per_half


def test_what_is_not_told_follows_from_how_rows_start():
    zero, normal = ("zero", None, "none", 0, 0), ("normal", 0.01, "silu", 200, 128)
    assert told(retrofit="add") == told(retrofit="add", memory_init="zero") == zero
    assert told() == told(retrofit="replace") == normal
    assert told(retrofit="add", memory_init="normal") == normal
    given = dict(alpha=0.5, gate="scalar", heal_steps=7, keys_per_half=64)
    assert told(retrofit="add", **given) == ("zero", *given.values())
    assert told(retrofit="replace", **given) == ("normal", *given.values())
    assert told(retrofit="replace", alpha=0.0, heal_steps=0) == ("normal", 0.0, "silu", 0, 128)
    placed = retrofit(keys_per_half=8).placement(24, 4)
    assert (placed.init_rows, placed.alpha, placed.memory.value_width) == ("zero", None, 24)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(retrofit="replace", memory_init="zero"), "--memory_init=zero with --retrofit=repl"),
        (dict(layers="0,4"), "--layers=0,4: layers .4. are outside .* layers 0 to 3"),
        (dict(layers="-1"), "--layers=-1: layers .-1. are outside"),
        (dict(layers="1,1", keys_per_half=8), "--layers=.1, 1. names a layer twice"),
        (dict(reads=9, keys_per_half=8), "--reads=9 per head exceed keys_per_half=8; .*k <= n"),
        (dict(keys_per_half=-1), "--keys_per_half=-1 must be at least 1"),
        (dict(), "--keys_per_half=0: the table has no size yet"),
        (dict(memory_heads=0), "--memory_heads=0 must be at least 1"),
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
        retrofit(**changes).placement(24, 4)
