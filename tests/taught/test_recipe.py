"""Which blocks and rows a model is given where nothing is told."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from smf_jax.memory.config import MemoryConfig
from smf_jax.models.config import MemoryPlacement
from smf_jax.taught.config import TeachConfig
from smf_jax.taught.making import with_layers, with_rows
from smf_jax.taught.recipe import middle_layers


@pytest.mark.parametrize(
    ("depth", "places"),
    [
        (1, (0,)),
        (2, (1,)),
        (4, (2,)),
        (5, (1, 2, 3)),
        (6, (2, 3, 4)),
        (24, (8, 12, 16)),
        (30, (10, 15, 20)),
    ],
)
def test_tables_stand_around_the_middle(depth, places):
    assert middle_layers(depth) == places


ROWS_OF_THREE = MemoryPlacement((1, 2, 3), "add", MemoryConfig(keys_per_half=64, value_width=32))


def placed(told: dict[str, Any], depth: int, memory: Any = None, kept: Any = None) -> TeachConfig:
    """The settings of a model of so many blocks, with its memory, or one that is kept of it."""
    base: Any = SimpleNamespace(config=SimpleNamespace(layers=depth, memory=memory))
    directory: Any = SimpleNamespace(has_base=kept is not None, placement=kept)
    return with_rows(with_layers(TeachConfig.of(**told), base, directory), base)


@pytest.mark.parametrize(
    ("told", "layers", "slots"),
    [
        ({}, "10,15,20", 512),
        ({"layers": ","}, "10,15,20", 512),
        ({"layers": "15"}, "15", 1536),
        ({"layers": "9,12,15,18"}, "9,12,15,18", 384),
        ({"shared_pool": True}, "10,15,20", 1536),
        ({"slots": 64}, "10,15,20", 64),
    ],
)
def test_tables_share_the_rows_of_a_step(told, layers, slots):
    config = placed(told, 30)
    assert (config.retrofit.layers, config.training.slots) == (layers, slots)


@pytest.mark.parametrize(("shared_pool", "slots"), [(False, 512), (True, 1536)])
def test_so_do_the_tables_that_a_model_has(shared_pool, slots):
    config = placed({}, 4, replace(ROWS_OF_THREE, shared_pool=shared_pool))
    assert (config.retrofit.layers, config.training.slots) == ("", slots)


def test_a_base_that_is_kept_decides_where_its_background_was_not_measured_yet():
    """As of a version that chose one block."""
    config = placed({}, 30, kept=replace(ROWS_OF_THREE, layers=(15,)))
    assert (config.retrofit.layers, config.training.slots) == ("15", 1536)
