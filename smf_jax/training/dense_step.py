"""One training step of whole leaves: full finetuning, replay, LoRA, pretraining, healing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from smf_jax.data.batching import Batch
from smf_jax.sparse.update_rule import UpdateRule
from smf_jax.training.loss import all_finite, weighted_loss
from smf_jax.training.state import Flat
from smf_jax.training.step import Settings, StepMetrics, latch, step_leaves

LogitsFn = Callable[[Flat, Array, Array], Array]
# From all leaves by path and a batch: what is minimised, and the running statistics after the
# batch, by path.
LossFn = Callable[[Flat, Batch], tuple[Array, Flat]]


class DenseState(NamedTuple):
    """What a dense step changes.

    Attributes:
      leaves: the trained leaves, or adapters, by path.
      statistics: their optax state.
      step: steps since the optimizer started.
      failed_step: first step whose loss, gradient or result was not finite, or -1.
      running: running statistics of norms, by path: set by the loss, seen by no optimizer.
    """

    leaves: Flat
    statistics: Any
    step: Int[Array, ""]
    failed_step: Int[Array, ""]
    running: Flat


def text_loss(logits: LogitsFn) -> LossFn:
    """The loss on the next tokens (`weighted_loss`); running statistics are used, not moved."""

    def loss(leaves: Flat, batch: Batch) -> tuple[Array, Flat]:
        predicted = logits(leaves, batch.tokens, batch.valid)
        return weighted_loss(predicted, batch.targets, batch.weights), {}

    return loss


def dense_step(
    loss: LossFn,
    update: UpdateRule,
    frozen: Flat,
    state: DenseState,
    batch: Batch,
    settings: Settings,
) -> tuple[DenseState, StepMetrics]:
    """One step that trains whole leaves: full finetuning, replay, LoRA, pretraining, healing.

    Args:
      loss: is given the frozen and the trained leaves and running statistics together, and
        returns as many running statistics as are in the state.
      update: the update rule.
      frozen: every leaf that is not in the state, by path.
      state: before the step.
      batch: ``(b, t)`` fields.
      settings: of the trial.

    Returns:
      The state after the step, and the metrics before it.
    """

    def loss_of(leaves: Flat) -> tuple[Array, Flat]:
        return loss({**frozen, **state.running, **leaves}, batch)

    (value, running), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.leaves)
    rate = update.rate(settings.learning_rate, state.step)
    leaves, statistics = step_leaves(
        update, update.clipped(gradients), state.leaves, state.statistics, rate
    )
    accepted = all_finite((value, gradients, leaves, running)) & (state.failed_step < 0)
    after = DenseState(
        leaves=optax.tree.where(accepted, leaves, state.leaves),
        statistics=optax.tree.where(accepted, statistics, state.statistics),
        step=state.step + 1,
        failed_step=latch(state.failed_step, state.step, accepted),
        running=optax.tree.where(accepted, running, state.running),
    )
    return after, StepMetrics(value, jnp.zeros((), jnp.int32))
