"""Models that are timed: their sizes, leaves and costs."""

from __future__ import annotations

from functools import partial

import pytest

from benchmarks import models
from benchmarks.flags import BenchmarkConfig
from benchmarks.real_size import PLACEMENT, SHAPE
from smf_jax.models.config import MemoryPlacement
from smf_jax.models.decoder import abstract_params
from smf_jax.params import count_parameters

BLOCK = BenchmarkConfig().block(16_384)
PLACE = partial(MemoryPlacement, (4,), "pretrain")


# Of the published models; see their cards.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen3-0.6b", 596_049_920),
        ("llama3.2-1b", 1_235_814_400),
        ("decoder-9m", 9_441_536),
        ("decoder-1.3b", 1_311_000_000),
    ],
)
def test_shapes_are_those_of_the_published_models_and_of_what_they_are_called(name, parameters):
    found = count_parameters(abstract_params(models.SHAPES[name]))
    tolerance = 0.06 if name.startswith("decoder") else 0
    assert abs(found - parameters) <= tolerance * parameters


def test_the_memory_of_the_real_size_has_its_published_one():
    memory = abstract_params(models.placed(SHAPE, PLACEMENT))["memory"]
    assert count_parameters(memory) == 52_011_264


def test_a_sparse_step_needs_less_than_lora_and_that_less_than_full_finetuning():
    config = models.placed("decoder-9m", PLACE(BLOCK.memory))
    costs = [models.model_cost(config, name, 1024, 512) for name in models.METHODS]
    operations = [cost.operations for cost in costs]
    assert operations == sorted(operations)
    assert costs[2].bytes > 4 * 4 * BLOCK.slots * BLOCK.width
