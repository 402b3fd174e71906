"""What a background belongs to: exactly the leaves that have a say in routing."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

from smf_jax.data.batching import Batch
from smf_jax.models.decoder import Decoder, upstream_of_reads
from smf_jax.params import pool_path
from smf_jax.training.background import (
    measure_background,
    require_background,
    routing_fingerprint,
)
from smf_jax.training.reads import read_counts
from tests.training import tiny

# Memories in two of three blocks, a plain block above them.
MODEL = tiny.replace(tiny.model_config(layers=(0, 1), mode="add"), layers=3)
SHARED = tiny.model_config(layers=(0, 1), shared_pool=True)


@pytest.fixture(scope="module")
def counts():
    return jax.jit(lambda params, batch: read_counts(Decoder(MODEL), params, batch))


def test_a_leaf_is_upstream_if_and_only_if_it_moves_some_read(counts):
    params, batch = tiny.params(MODEL), tiny.batch(rows=tiny.ROWS)
    before = counts(params, batch)
    rng = np.random.default_rng(1)
    moved = {}
    for path, leaf in params.items():
        noise = 2 * rng.standard_normal(leaf.shape).astype(np.float32)
        after = counts({**params, path: leaf + noise}, batch)
        moved[path] = any((after[pool] != before[pool]).any() for pool in before)
    assert moved == {path: upstream_of_reads(MODEL, path) for path in params}
    assert 10 < sum(moved.values()) < len(moved) - 10


def test_the_fingerprint_is_that_of_the_upstream_leaves():
    params = tiny.params(MODEL)
    base_fingerprint = routing_fingerprint(MODEL, params)
    for path, leaf in params.items():
        other = routing_fingerprint(MODEL, {**params, path: leaf + 1})
        assert (other != base_fingerprint) == upstream_of_reads(MODEL, path), path


@pytest.mark.parametrize(
    ("model", "path", "upstream"),
    [
        (MODEL, pool_path(0), True),
        (MODEL, pool_path(1), False),
        (SHARED, pool_path(0), True),
        (tiny.model_config(), pool_path(0), False),
        (tiny.model_config(), "memory/layer_0/keys", True),
        (tiny.model_config(), "memory/layer_0/output/kernel", False),
        (tiny.model_config(), "final_norm/scale", False),
    ],
)
def test_a_table_is_upstream_where_a_higher_layer_reads(model, path, upstream):
    assert path in tiny.params(model)
    assert upstream_of_reads(model, path) == upstream


def test_statistics_are_those_of_the_batches(counts):
    batches, params = tiny.batches(4), tiny.params(MODEL)
    done = []
    background = measure_background(
        Decoder(MODEL), params, batches, corpus="text", tokenizer="t", progress=done.append
    )
    of_batches = [counts(params, Batch(*(field[i] for field in batches))) for i in range(4)]
    for pool, usage in background.pools.items():
        each = np.stack([np.asarray(of_batch[pool]) for of_batch in of_batches])
        np.testing.assert_array_equal(usage.document_frequency, (each > 0).sum(0))
        np.testing.assert_array_equal(usage.accesses, each.sum(0))
        assert int(usage.batches) == 4
    assert background.pools.keys() == {pool_path(0), pool_path(1)} and done == [1, 2, 3, 4]
    assert background.tokens_per_batch == round(batches.valid.sum() / 4)
    background.require(routing_fingerprint(MODEL, params), "t")
    assert (background.corpus, background.tokenizer) == ("text", "t")


def test_statistics_of_a_memory_that_reads_otherwise_are_refused():
    """Reads per head are in no parameter."""
    params = tiny.params(MODEL)
    background = measure_background(Decoder(MODEL), params, tiny.batches(1))
    require_background(background, Decoder(MODEL), params)
    assert MODEL.memory is not None
    fewer = replace(MODEL.memory.memory, reads=MODEL.memory.memory.reads - 1)
    other = replace(MODEL, memory=replace(MODEL.memory, memory=fewer))
    with pytest.raises(ValueError, match="another memory: .* of setting reads"):
        require_background(background, Decoder(other), params)


def test_parts_of_a_batch_count_as_one(counts):
    batches, params = tiny.batches(3), tiny.params(MODEL)
    # The last rows end earlier, and stand in a part that is as short.
    short = batches.tokens.shape[-1] - 1
    batches.valid[:, 1:, short:] = False
    parts = (
        Batch(*(field[:, :1] for field in batches)),
        Batch(*(field[:, 1:, :short] for field in batches)),
    )
    whole, split = (measure_background(Decoder(MODEL), params, each) for each in (batches, parts))
    assert whole.tokens_per_batch == split.tokens_per_batch
    for pool, usage in whole.pools.items():
        np.testing.assert_array_equal(usage.accesses, split.pools[pool].accesses)
        other = split.pools[pool].document_frequency
        np.testing.assert_array_equal(usage.document_frequency, other)


def test_a_model_without_memory_has_no_background():
    with pytest.raises(ValueError, match="the model has no memory, so nothing is upstream"):
        upstream_of_reads(tiny.PLAIN, "embedder/embedding")
    with pytest.raises(ValueError, match="the model has no memory: pretrain or retrofit one"):
        measure_background(Decoder(tiny.PLAIN), {}, tiny.batches(1), corpus="", tokenizer="")
