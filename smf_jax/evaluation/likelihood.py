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
    """Sum of token losses and the number of tokens, so that chunks add up exactly.

    Attributes:
      total: nats, weighted.
      weight: sum of the weights.
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]


def loss_sum(logits: Float[Array, "b t vocabulary"], batch: Batch) -> LossSum:
    """Weighted sum of the losses of a batch; see `mean_loss`."""
    losses = jnp.where(batch.weights > 0, token_losses(logits, batch.targets), 0)
    return LossSum(jnp.sum(losses * batch.weights), jnp.sum(batch.weights))


def mean_loss(chunks: Sequence[LossSum]) -> float:
    """Mean loss of a text in nats per token, from the sums of its chunks.

    Raises:
      ValueError: if no token weighs anything.
    """
    weight = float(np.sum([np.asarray(chunk.weight, np.float64) for chunk in chunks]))
    if not weight:
        raise ValueError("a text probe without tokens measures nothing; give a longer text")
    return float(np.sum([np.asarray(chunk.total, np.float64) for chunk in chunks])) / weight
