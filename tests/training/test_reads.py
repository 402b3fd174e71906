"""Reads of a batch in micro-batches: the same slots, and the gradients of the whole batch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.losses import weighted_loss
from smf_jax.models.decoder import Decoder, plain_logits
from smf_jax.sparse.accesses import count_reads
from smf_jax.sparse.rows import row_gradient
from smf_jax.training.memory_model import as_memory_model
from smf_jax.training.reads import differentiate_reads, micro_batches, read_counts
from tests.training import tiny

CONFIG = tiny.model_config(layers=(0, 1), mode="add", shared_pool=True)
MODEL = as_memory_model(Decoder(CONFIG))
ROWS, PARTS = 6, 3


def split():
    """The params of the model but its scalars, and these."""
    params = tiny.params(CONFIG)
    scalars = {path: leaf for path, leaf in params.items() if path.endswith("/alpha")}
    return {p: x for p, x in params.items() if p not in scalars}, scalars


@pytest.fixture(scope="module")
def whole():
    return jax.jit(partial(differentiate_reads, MODEL, *split()))(tiny.batch(rows=ROWS))


def test_micro_batches_change_rounding_only(whole):
    batch = tiny.batch(rows=ROWS)
    assert len(set(batch.weights.reshape(PARTS, -1).sum(1).tolist())) > 1, "of unequal weight"
    accumulate = partial(differentiate_reads, MODEL, *split(), parts=PARTS)
    found = jax.jit(accumulate)(batch)
    assert float(found.loss) == pytest.approx(float(whole.loss), rel=1e-6)
    assert found.traces.keys() == whole.traces.keys() and len(found.traces) == 1
    for pool, traces in found.traces.items():
        assert len(traces) == 2
        for trace, expected in zip(traces, whole.traces[pool], strict=True):
            np.testing.assert_array_equal(trace.slots, expected.slots)
            np.testing.assert_allclose(trace.weights, expected.weights, rtol=1e-4)
            largest = np.abs(expected.cotangent).max()
            np.testing.assert_allclose(
                trace.cotangent, expected.cotangent, rtol=0, atol=2e-6 * largest
            )
    for path, gradient in found.scalars.items():
        np.testing.assert_allclose(gradient, whole.scalars[path], rtol=1e-4, atol=1e-7)


def test_parts_that_do_not_divide_a_batch_are_refused():
    with pytest.raises(ValueError, match="micro_batches=4 do not divide a batch of 6 rows"):
        micro_batches(tiny.batch(rows=6), 4)


@pytest.mark.parametrize("join", ["sum", "concat"])
def test_rows_of_a_hashed_memory_have_the_gradient_of_the_table(join):
    memory = replace(tiny.MEMORY, router="ngram", join=join, gate="context", query_norm="none")
    placement = replace(cast(Any, CONFIG.memory), memory=memory)
    config = CONFIG.with_memory(placement)
    model, params, batch = Decoder(config), tiny.params(config), tiny.batch()
    (pool,) = as_memory_model(model).tables
    slots, size = jnp.arange(memory.slots), memory.slots

    @jax.jit
    def rows(params):
        found = differentiate_reads(as_memory_model(model), params, {}, batch)
        counts = count_reads([each.slots for each in found.traces[pool]], batch.valid.ravel(), size)
        return row_gradient(found.traces[pool], slots, size), counts.counts, counts.total

    @jax.jit
    def whole(table):
        logits = plain_logits(model)({**params, pool: table}, batch.tokens, batch.valid)
        return weighted_loss(logits, batch.targets, batch.weights)

    found, counts, total = rows(params)
    truth = jax.jit(jax.grad(whole))(params[pool])
    np.testing.assert_allclose(found, truth, rtol=1e-4, atol=1e-7)
    assert np.abs(truth).max() > 1e-3
    assert total == counts.sum() == batch.valid.sum() * memory.reads_per_token * 2
    expected = jax.jit(partial(read_counts, model))(params, batch)[pool]
    np.testing.assert_array_equal(counts, expected)
