"""Probes of text: how likely is held-out text still?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from smf_jax.data.batching import Batch
from smf_jax.losses import token_losses


class LossSum(NamedTuple):
    """Weighted sum of token losses in nats, and of their weights, so that chunks add up exactly."""

    total: Float[Array, ""]
    weight: Float[Array, ""]


def loss_sum(logits: Float[Array, "b t vocabulary"], batch: Batch) -> LossSum:
    """Weighted sum of the losses of a batch; see `mean_loss`."""
    losses = jnp.where(batch.weights > 0, token_losses(logits, batch.targets), 0)
    return LossSum(jnp.sum(losses * batch.weights), jnp.sum(batch.weights))


def mean_loss(chunks: Sequence[LossSum]) -> float:
    """Mean loss of a text in nats per token; a ``ValueError`` if no token weighs anything."""
    sums = ([np.asarray(chunk[part], np.float64) for chunk in chunks] for part in (0, 1))
    total, weight = (float(np.sum(each)) for each in sums)
    if not weight:
        raise ValueError("a text probe without tokens measures nothing; give a longer text")
    return total / weight
