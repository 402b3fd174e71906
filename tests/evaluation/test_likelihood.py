"""Mean loss of a text from the sums of its chunks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.data.batching import Batch
from smf_jax.evaluation.likelihood import LossSum, loss_sum, mean_loss


def case():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((6, 5, 7)).astype(np.float32)
    targets = rng.integers(0, 7, (6, 5)).astype(np.int32)
    weights = (rng.random((6, 5)) < 0.7).astype(np.float32)
    return logits, Batch(targets, targets, weights, weights > 0)


def truth():
    logits, batch = case()
    shifted = logits.astype(np.float64)
    nll = (
        np.log(np.exp(shifted).sum(-1))
        - np.take_along_axis(shifted, batch.targets[..., None], 2)[..., 0]
    )
    return (nll * batch.weights).sum() / batch.weights.sum()


@pytest.mark.parametrize("rows", [6, 4, 1])
def test_the_mean_does_not_depend_on_the_chunks(rows):
    logits, batch = case()
    logits = jnp.asarray(logits)
    chunks = [
        loss_sum(logits[i : i + rows], Batch(*(field[i : i + rows] for field in batch)))
        for i in range(0, 6, rows)
    ]
    assert mean_loss(chunks) == pytest.approx(truth(), rel=1e-6)


def test_pads_weigh_nothing_whatever_their_logits():
    logits, batch = case()
    logits[batch.weights == 0] = np.nan
    assert mean_loss([loss_sum(jnp.asarray(logits), batch)]) == pytest.approx(truth(), rel=1e-6)


def test_a_text_without_tokens_is_refused():
    with pytest.raises(ValueError, match="a text probe without tokens measures nothing; give a"):
        mean_loss([LossSum(jnp.zeros(()), jnp.zeros(()))])


def test_the_sum_over_many_chunks_is_exact():
    # In float32 the small chunks would vanish beside the large one.
    chunks = [LossSum(jnp.float32(2**24), jnp.float32(2**24))]
    chunks += [LossSum(jnp.float32(1), jnp.float32(0.5))] * 1000
    expected = (2**24 + 1000) / (2**24 + 500)
    assert mean_loss(jax.device_get(chunks)) == pytest.approx(expected, rel=1e-12)
