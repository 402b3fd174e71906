"""Full finetuning with a quadratic price on moving away from an anchor: L2 to init, and EWC."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from smf_jax.data.batching import Batch
from smf_jax.losses import token_losses
from smf_jax.models.decoder import Decoder, LogitsFn, plain_logits
from smf_jax.params import Params
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.dense_step import DenseState, dense_step, text_loss
from smf_jax.training.step import Settings, Shared, StepMetrics
from smf_jax.training.trainers import Trainer, batch_rows_at_once, dense_trainer


class PenalisedState(NamedTuple):
    """What a step of a penalised method changes, and what its price is measured by."""

    dense: DenseState  # as for full finetuning
    anchor: Params  # the parameters θ* that moving away from costs, by path
    importance: Params  # how much it costs, by path; empty: one everywhere

    @property
    def params(self) -> Params:
        """The trained parameters."""
        return self.dense.params

    @property
    def opt_state(self) -> tuple[optax.OptState, Params, Params]:
        """All that is held beside the parameters."""
        return self.dense.opt_state, self.anchor, self.importance

    @property
    def failed_step(self) -> Int[Array, "..."]:
        """The first step that was not accepted, or -1."""
        return self.dense.failed_step


def penalised_trainer(
    model: Decoder,
    optimizer: OptimizerConfig,
    strength: float,
    keep_optimizer_state: bool = False,
    *,
    by_fisher: bool = False,
    scored: int | None = None,
) -> Trainer[PenalisedState]:
    """Full finetuning on ``L + strength/2 · Σ_i F_i (θ_i - θ*_i)²``.

    With ``by_fisher`` that is elastic weight consolidation (EWC, 1612.00796, equation 3; one anchor
    for all tasks and F summed over them, 1805.06370, section 3): after each task θ* are its
    parameters, and F grows by the task's `fisher`. Before the first task nothing costs anything.
    Without, F is one and θ* are the base's parameters (L2 to init, 1802.01483). ``scored`` is that
    of `text_loss`.
    """
    logits = plain_logits(model)
    minimised = text_loss(logits, scored)
    full = dense_trainer(model, optimizer, keep_optimizer_state=keep_optimizer_state)

    def begin(base: Params, settings: Settings) -> PenalisedState:
        dense = full.begin(base, settings)
        # A step's buffers are donated, which the anchor must outlive.
        anchor = jax.tree.map(jnp.copy, dense.params)
        importance = jax.tree.map(jnp.zeros_like, anchor) if by_fisher else {}
        return PenalisedState(dense, anchor, importance)

    def begin_task(
        shared: Shared, state: PenalisedState, examples: Batch, settings: Settings
    ) -> PenalisedState:
        return state._replace(dense=full.begin_task(shared, state.dense, examples, settings))

    def step(
        shared: Shared, state: PenalisedState, batch: Batch, settings: Settings
    ) -> tuple[PenalisedState, StepMetrics]:
        def loss(params: Params, batch: Batch) -> tuple[Array, Params]:
            value, batch_stats = minimised(params, batch)
            moved = {path: params[path] for path in state.anchor}
            return value + strength * price(moved, state.anchor, state.importance), batch_stats

        rows = batch_rows_at_once(model, scored, batch)
        dense, metrics = dense_step(
            loss, optimizer, shared.frozen, state.dense, batch, settings, rows
        )
        return state._replace(dense=dense), metrics

    def end_task(
        shared: Shared, state: PenalisedState, examples: Batch, settings: Settings
    ) -> PenalisedState:
        del settings
        found = fisher(logits, state.params, shared.frozen, examples)
        importance = jax.tree.map(jnp.add, state.importance, found)
        return PenalisedState(state.dense, jax.tree.map(jnp.copy, state.params), importance)

    def resume(state: PenalisedState, saved: Params) -> PenalisedState:
        dense = full.resume(state.dense, saved)
        if not by_fisher:
            return state._replace(dense=dense)
        importance = {path: saved[f"importance/{path}"] for path in state.importance}
        return PenalisedState(dense, jax.tree.map(jnp.copy, dense.params), importance)

    return Trainer(
        begin=begin,
        begin_task=begin_task,
        step=step,
        logits=lambda shared, state, *asked: full.logits(shared, state.dense, *asked),
        trained=lambda state: full.trained(state.dense),
        resume=resume,
        frozen=full.frozen,
        end_task=end_task if by_fisher else None,
        carried=lambda state: {f"importance/{path}": f for path, f in state.importance.items()},
    )


def price(params: Params, anchor: Params, importance: Params) -> Float[Array, ""]:
    """``½ Σ_i F_i (θ_i - θ*_i)²`` in float32, with F one where it is not given."""
    total = jnp.zeros((), jnp.float32)
    for path, start in anchor.items():
        squares = jnp.square((params[path] - start).astype(jnp.float32))
        total += jnp.sum(importance[path] * squares if importance else squares)
    return total / 2


def fisher(logits: LogitsFn, params: Params, frozen: Params, examples: Batch) -> Params:
    """The diagonal of the empirical Fisher information: the mean over examples of ``(∂ log p)²``.

    In the shapes of ``params``, by path; ``frozen`` are the model's others. Examples have
    ``(chunks, b, t)`` fields; log p of a row is weighted by token as the loss is, and a row without
    weight is none.
    """
    rows = Batch(*(field.reshape(-1, 1, field.shape[-1]) for field in examples))

    def nll(params: Params, row: Batch) -> Float[Array, ""]:
        found = logits({**frozen, **params}, row.tokens, row.valid)
        losses = jnp.where(row.weights > 0, token_losses(found, row.targets), 0)
        return jnp.sum(losses * row.weights)

    def add(total: Params, row: Batch) -> tuple[Params, None]:
        gradients = jax.grad(nll)(params, row)
        return jax.tree.map(lambda sums, g: sums + jnp.square(g), total, gradients), None

    total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), rows)
    count = jnp.maximum(jnp.sum(jnp.any(jnp.asarray(rows.weights) > 0, axis=(1, 2))), 1)
    return jax.tree.map(lambda sums: sums / count.astype(sums.dtype), total)
