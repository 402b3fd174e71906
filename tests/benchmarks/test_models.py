"""Models that are timed: their sizes, leaves, batches and costs."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import models
from benchmarks.flags import BenchmarkFlags
from smf_jax.continual.config import PretrainFlags
from smf_jax.continual.pretraining import model_config
from smf_jax.params import pool_path
from tests.benchmarks.tiny import shape

BLOCK = BenchmarkFlags().block(16_384)


def parameters(config) -> int:
    params = models.abstract_leaves(config)
    return sum(leaf.size for path, leaf in params.items() if not path.startswith("memory/"))


def test_models_have_the_sizes_they_are_called_by():
    assert 8.5e6 < parameters(models.nine_million_decoder(BLOCK.memory)) < 9.5e6
    assert 1.2e9 < parameters(models.large_decoder(BLOCK.memory)) < 1.4e9
    assert parameters(models.large_decoder(BLOCK.memory, scale=0.02)) < 1e6


def test_the_built_in_shape_is_that_of_the_built_in_base():
    flags = PretrainFlags()
    assert models.built_in_decoder(16_384) == model_config(flags, flags.vocabulary)


def test_random_leaves_have_the_model_s_shapes_and_are_finite():
    config = models.nine_million_decoder(shape().memory, scale=0.02)
    params = models.random_leaves(config, "bfloat16")
    expected = models.abstract_leaves(config, "bfloat16")
    assert {p: (x.shape, x.dtype) for p, x in params.items()} == {
        p: (x.shape, x.dtype) for p, x in expected.items()
    }
    assert all(abs(leaf).max() < 10 for leaf in params.values())
    again = models.random_leaves(config, "bfloat16")
    assert all((leaf == again[path]).all() for path, leaf in params.items())


def test_batches_are_full_rows_whose_second_half_is_the_answer():
    config = models.built_in_decoder(64, scale=0.02)
    batch = models.random_batch(config, 3, 8)
    assert batch.tokens.shape == batch.targets.shape == (3, 8)
    assert (batch.tokens[:, 1:] == batch.targets[:, :-1]).all()
    assert batch.valid.all()
    np.testing.assert_array_equal(batch.weights[1], np.float32([0.1] * 4 + [1.0] * 4))
    assert batch.tokens.max() < config.vocabulary


def test_every_pool_has_a_background():
    config = models.built_in_decoder(64, scale=0.02)
    usage = models.random_usage(config)
    assert set(usage) == {pool_path(pool) for pool in config.memory.pools}
    assert all((each.document_frequency <= each.batches).all() for each in usage.values())


def test_a_sparse_step_needs_less_than_lora_and_that_less_than_full_finetuning():
    config = models.nine_million_decoder(BLOCK.memory)
    costs = [models.model_cost(config, name, 1024, 512) for name in ("smf", "lora", "full")]
    operations = [cost.operations for cost in costs]
    assert operations == sorted(operations)
    assert costs[2].bytes > 4 * 4 * BLOCK.slots * BLOCK.width
    forward = 2 * 1024 * parameters(config)
    assert forward < operations[0] < 2 * forward < operations[2]


def test_a_model_without_memory_is_named():
    plain = models.built_in_decoder(64, scale=0.02).with_memory(None)
    with pytest.raises(ValueError, match="no memory"):
        models.memory_of(plain)
