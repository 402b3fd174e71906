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
from smf_jax.memory.norms import STATISTICS, Moments, running_moments
from smf_jax.models.decoder import Decoder
from smf_jax.training.dense_step import LossFn
from smf_jax.training.loss import weighted_loss
from smf_jax.training.state import Flat, flatten, unflatten


def training_loss(model: Decoder) -> LossFn:
    """The loss on the next tokens where the statistics of the batch are used and followed.

    Args:
      model: a decoder; without query BatchNorm this is `text_loss`.
    """

    def loss(leaves: Flat, batch: Batch) -> tuple[Array, Flat]:
        logits, collections = model.apply(
            {"params": unflatten(leaves)}, batch.tokens, batch.valid, mutable=[STATISTICS]
        )
        value = weighted_loss(logits, batch.targets, batch.weights)
        return value, follow(leaves, collections)

    return loss


def follow(leaves: Flat, collections: Mapping[str, Any]) -> Flat:
    """The running statistics one batch on, by path; see `running_moments`.

    Args:
      leaves: by path, the running statistics before the batch among them.
      collections: what a run with a mutable collection ``statistics`` has sown.
    """
    after: Flat = {}
    for path, moments in _sown(collections).items():
        mean, variance = f"{path}/mean", f"{path}/variance"
        after[mean], after[variance] = running_moments(leaves[mean], leaves[variance], moments)
    return after


def _sown(collections: Mapping[str, Any]) -> dict[str, Moments]:
    """The moments of a batch, by the path of their norm."""
    flat: dict[str, Any] = {**flatten(collections.get(STATISTICS, {}))}
    return {path.removesuffix("/moments"): moments for path, moments in flat.items()}
