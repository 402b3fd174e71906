"""Running statistics of query BatchNorm: they follow the batches, not a gradient.

Pretraining and healing normalise with the statistics of each batch and let the running ones
follow; everything else (sparse, full and LoRA finetuning, evaluation, the background) uses the
running ones as they are. They are upstream of the reads, hence part of a base's fingerprint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array

from smf_jax.data.batching import Batch
from smf_jax.losses import weighted_loss
from smf_jax.memory.norms import STATISTICS, running_moments
from smf_jax.models.decoder import Decoder
from smf_jax.params import Params, flatten, unflatten
from smf_jax.training.dense_step import LossFn


def training_loss(model: Decoder) -> LossFn:
    """`text_loss`, but the statistics of query BatchNorm are those of the batch, and followed."""

    def loss(params: Params, batch: Batch) -> tuple[Array, Params]:
        logits, collections = model.apply(
            {"params": unflatten(params)}, batch.tokens, batch.valid, mutable=[STATISTICS]
        )
        value = weighted_loss(logits, batch.targets, batch.weights)
        return value, follow(params, collections)

    return loss


def follow(params: Params, collections: Mapping[str, Any]) -> Params:
    """Running statistics by path: `running_moments` of those in ``params`` and the batch's."""
    sown: dict[str, Any] = {**flatten(collections.get(STATISTICS, {}))}
    after: Params = {}
    for path, moments in sown.items():
        mean, variance = (path.removesuffix("moments") + leaf for leaf in ("mean", "variance"))
        after[mean], after[variance] = running_moments(params[mean], params[variance], moments)
    return after
