"""Running statistics of query BatchNorm: leaves that follow the batches, not a gradient.

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
from smf_jax.memory.norms import STATISTICS, Moments, running_moments
from smf_jax.models.decoder import Decoder
from smf_jax.params import Params, flatten, unflatten
from smf_jax.training.dense_step import LossFn


def training_loss(model: Decoder) -> LossFn:
    """The loss on the next tokens where the statistics of the batch are used and followed.

    Args:
      model: a decoder; without query BatchNorm this is `text_loss`.
    """

    def loss(params: Params, batch: Batch) -> tuple[Array, Params]:
        logits, collections = model.apply(
            {"params": unflatten(params)}, batch.tokens, batch.valid, mutable=[STATISTICS]
        )
        value = weighted_loss(logits, batch.targets, batch.weights)
        return value, follow(params, collections)

    return loss


def follow(params: Params, collections: Mapping[str, Any]) -> Params:
    """The running statistics one batch on, by path; see `running_moments`.

    Args:
      params: by path, the running statistics before the batch among them.
      collections: what a run with a mutable collection `STATISTICS` has sown.
    """
    after: Params = {}
    for path, moments in _sown(collections).items():
        mean, variance = f"{path}/mean", f"{path}/variance"
        after[mean], after[variance] = running_moments(params[mean], params[variance], moments)
    return after


def _sown(collections: Mapping[str, Any]) -> dict[str, Moments]:
    """The moments of a batch, by the path of their norm."""
    flat: dict[str, Any] = {**flatten(collections.get(STATISTICS, {}))}
    return {path.removesuffix("/moments"): moments for path, moments in flat.items()}
