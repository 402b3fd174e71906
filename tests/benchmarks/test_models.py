"""Models that are timed: their sizes, leaves and costs."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from benchmarks import models
from benchmarks.flags import BenchmarkFlags
from benchmarks.real_size import PLACEMENT, SHAPE
from smf_jax.models.decoder import abstract_params
from smf_jax.params import count_parameters
from tests.benchmarks.tiny import shape

BLOCK = BenchmarkFlags().block(16_384)


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


def test_random_leaves_have_the_model_s_shapes_and_follow_their_path():
    config = models.nine_million_decoder(shape().memory, scale=0.02)
    params = models.random_leaves(config, "bfloat16", "float32")
    expected = models.abstract_leaves(config, "bfloat16", "float32")
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), expected
    )
    whole = jax.ShapeDtypeStruct((5, 9), np.float32)
    drawn = [models.random_leaf(path, whole, seed) for path, seed in (("a", 0), ("a", 1), ("b", 0))]
    np.testing.assert_array_equal(drawn[0], models.random_leaf("a", whole))
    assert (drawn[0] != drawn[1]).all() and (drawn[0] != drawn[2]).all()
    assert len(np.unique(models.random_leaf("a/kernel", whole, part=7))) == 45


def test_a_sparse_step_needs_less_than_lora_and_that_less_than_full_finetuning():
    config = models.nine_million_decoder(BLOCK.memory)
    costs = [models.model_cost(config, name, 1024, 512) for name in models.METHODS]
    operations = [cost.operations for cost in costs]
    assert operations == sorted(operations)
    assert costs[2].bytes > 4 * 4 * BLOCK.slots * BLOCK.width
