"""Finetuning that pays for predicting otherwise than the frozen base does: a KL divergence."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from smf_jax.data.batching import Batch
from smf_jax.losses import kl_to_base, token_losses
from smf_jax.models.activations import MOST_BYTES, rows_at_once
from smf_jax.models.decoder import Decoder, plain_logits
from smf_jax.models.layers import Segments
from smf_jax.params import Params
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.dense_step import DenseState, dense_step
from smf_jax.training.step import Settings, Shared, StepMetrics
from smf_jax.training.trainers import Trainer

# Whose tokens the divergence is a mean over: the facts of a batch, its general text, or all.
KlTokens = Literal["batch", "text", "both"]


class KlBatch(NamedTuple):
    """A batch with a price for each target: what it adds to the loss by either of the two terms."""

    tokens: Int[Array, "b t"]
    targets: Int[Array, "b t"]
    weights: Float[Array, "b t"]  # of both terms together: what a part of the batch counts for
    valid: Segments
    of_loss: Float[Array, "b t"]  # of the target's negative log-likelihood; they add up to 1
    of_kl: Float[Array, "b t"]  # of the divergence there; they add up to its weight


def priced(batch: Batch, weight: float, on: KlTokens, text_rows: int) -> KlBatch:
    """Shares out a batch ``(b, t)`` whose last ``text_rows`` rows are general text.

    These are never learned: only the divergence is asked of them.
    """
    rows = jnp.arange(batch.tokens.shape[0]) < batch.tokens.shape[0] - text_rows
    is_new = jnp.expand_dims(rows, 1)
    learned = jnp.where(is_new, batch.weights, 0)
    asked = {"batch": is_new, "text": ~is_new, "both": jnp.ones_like(is_new)}[on] & (
        batch.valid != 0
    )
    tiny = jnp.finfo(learned.dtype).tiny
    of_loss = learned / jnp.maximum(jnp.sum(learned), tiny)
    of_kl = weight * asked / jnp.maximum(jnp.sum(asked), 1).astype(learned.dtype)
    return KlBatch(
        batch.tokens, batch.targets, of_loss + of_kl, jnp.asarray(batch.valid), of_loss, of_kl
    )


def kl_trainer(
    model: Decoder,
    optimizer: OptimizerConfig,
    learner: Trainer[DenseState],
    weight: float,
    on: KlTokens,
    text_rows: int = 0,
) -> Trainer[DenseState]:
    """A dense method, full finetuning or LoRA, on ``L + weight · mean KL(base ‖ model)``.

    L is the loss on the next tokens of the facts (`weighted_loss`), the mean is over the valid
    tokens that ``on`` names. The base's logits are computed in the step, from the very leaves that
    the trials of a group share. ``learner`` is the method's own trainer, whose ``optimizer`` is
    given again; the last ``text_rows`` rows of every batch are general text.
    """
    of_base = plain_logits(model)

    def step(
        shared: Shared, state: DenseState, batch: Batch, settings: Settings
    ) -> tuple[DenseState, StepMetrics]:
        whole = priced(batch, weight, on, text_rows)
        total = jnp.sum(whole.weights)

        def loss(params: Params, part: KlBatch) -> tuple[Array, Params]:
            trained = state._replace(params={path: params[path] for path in state.params})
            now = learner.logits(shared, trained, part.tokens, part.valid)
            before = of_base(shared.frozen, part.tokens, part.valid)
            losses = jnp.where(part.of_loss > 0, token_losses(now, part.targets), 0)
            divergences = jnp.where(part.of_kl > 0, kl_to_base(before, now), 0)
            added = jnp.sum(losses * part.of_loss + divergences * part.of_kl)
            # As a mean by weight, which is what parts of a batch are put together as.
            counts = jnp.sum(part.weights)
            return added * total / jnp.where(counts > 0, counts, 1), {}

        # Half of the usual, as there are the logits of two models.
        rows = rows_at_once(model.config, *batch.tokens.shape, most=MOST_BYTES // 2)
        return dense_step(loss, optimizer, shared.frozen, state, whole, settings, rows)

    return learner._replace(step=step, frozen=dict)
