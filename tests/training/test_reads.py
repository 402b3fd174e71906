"""Reads of a batch in micro-batches: the same slots, and the gradients of the whole batch."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest

from smf_jax.models.decoder import Decoder
from smf_jax.training.memory_model import as_memory_model
from smf_jax.training.reads import differentiate_reads, micro_batches
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
