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


class DenseState(NamedTuple):
    """What a dense step changes.

    Attributes:
      leaves: the trained leaves, or adapters, by path.
      statistics: their optax state.
      step: steps since the optimizer started.
      failed_step: first step whose loss, gradient or result was not finite, or -1.
    """

    leaves: Flat
    statistics: Any
    step: Int[Array, ""]
    failed_step: Int[Array, ""]


def dense_step(
    logits: LogitsFn,
    update: UpdateRule,
    frozen: Flat,
    state: DenseState,
    batch: Batch,
    settings: Settings,
) -> tuple[DenseState, StepMetrics]:
    """One step that trains whole leaves: full finetuning, replay, LoRA, pretraining, healing.

    Args:
      logits: ``(leaves by path, tokens, valid) -> (b, t, vocabulary)``; is given the frozen and
        the trained leaves together.
      update: the update rule.
      frozen: every leaf that is not in the state, by path.
      state: before the step.
      batch: ``(b, t)`` fields.
      settings: of the trial.

    Returns:
      The state after the step, and the metrics before it.
    """

    def loss_of(leaves: Flat) -> Array:
        return weighted_loss(
            logits({**frozen, **leaves}, batch.tokens, batch.valid), batch.targets, batch.weights
        )

    loss, gradients = jax.value_and_grad(loss_of)(state.leaves)
    rate = update.rate(settings.learning_rate, state.step)
    leaves, statistics = step_leaves(
        update, update.clipped(gradients), state.leaves, state.statistics, rate
    )
    accepted = all_finite((loss, gradients, leaves)) & (state.failed_step < 0)
    after = DenseState(
        leaves=optax.tree.where(accepted, leaves, state.leaves),
        statistics=optax.tree.where(accepted, statistics, state.statistics),
        step=state.step + 1,
        failed_step=latch(state.failed_step, state.step, accepted),
    )
    return after, StepMetrics(loss, jnp.zeros((), jnp.int32))
