"""Which blocks and rows a model is given where nothing is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from smf_jax.memory.config import MemoryConfig
from smf_jax.models.config import MemoryPlacement
from smf_jax.taught.config import TeachConfig
from smf_jax.taught.making import placed
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


def base_of(depth: int, memory: MemoryPlacement | None = None) -> Any:
    """As much of a base as is looked at."""
    return SimpleNamespace(config=SimpleNamespace(layers=depth, memory=memory))


@pytest.mark.parametrize(
    ("told", "layers", "slots"),
    [
        ({}, "10,15,20", 512),
        ({"layers": "15"}, "15", 1536),
        ({"layers": "9,12,15,18"}, "9,12,15,18", 384),
        ({"shared_pool": True}, "10,15,20", 1536),
        ({"slots": 64}, "10,15,20", 64),
    ],
)
def test_tables_share_the_rows_of_a_step(told, layers, slots):
    config = placed(TeachConfig.of(**told), base_of(30))
    assert (config.retrofit.layers, config.training.slots) == (layers, slots)


@pytest.mark.parametrize(("shared_pool", "slots"), [(False, 512), (True, 1536)])
def test_so_do_the_tables_that_a_model_has(shared_pool, slots):
    memory = MemoryConfig(keys_per_half=64, value_width=32)
    placement = MemoryPlacement((1, 2, 3), "add", memory, shared_pool)
    config = placed(TeachConfig(), base_of(4, placement))
    assert (config.retrofit.layers, config.training.slots) == ("", slots)
