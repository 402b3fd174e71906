"""Trainers: what trains, how a task begins, how a step runs, what is kept; the dense methods.

A trainer is a bundle of pure functions of one trial. Trials that share one differ in
`smf_jax.training.step.Settings` only, hence share its compilations. That of method ``smf`` stands
in `sparse_trainer`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from smf_jax.data.batching import Batch
from smf_jax.models.decoder import Decoder, LogitsFn, plain_logits
from smf_jax.models.lora import apply_lora, init_lora
from smf_jax.params import Params, is_batch_stats, split, unflatten
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.dense_step import DenseState, LossFn, dense_step, text_loss
from smf_jax.training.step import Settings, Shared, StepMetrics


class TrainState(Protocol):
    """What every method's state says of itself."""

    @property
    def failed_step(self) -> Int[Array, ""]:
        """The first step that was not accepted, or -1."""
        ...


State = TypeVar("State", bound=TrainState)


def _nothing(state: TrainState) -> Params:
    del state
    return {}


class Trainer(NamedTuple, Generic[State]):
    """One method, as pure functions of one trial.

    Attributes:
      begin: ``(base leaves, settings) -> state`` before the first task.
      begin_task: ``(shared, state, examples, settings) -> state``: the optimizer starts again (or
        not, if it was told so); ``examples`` are all of the task, ``(chunks, b, t)``.
      step: ``(shared, state, batch, settings) -> (state, metrics)``.
      logits: ``(shared, state, tokens, valid) -> logits``, of the model as trained so far.
      trained: ``(state) -> leaves by path`` that training may have changed.
      resume: ``(state, leaves) -> state`` with those leaves in place of the trained ones.
      frozen: ``(base leaves) -> leaves by path`` that stay as they are; goes into `Shared`.
      end_task: ``(shared, state, examples, settings) -> state`` after the last step of a task, for
        methods that measure what the task needs; ``None`` for the others.
      carried: ``(state) -> arrays by path`` that the next task needs beside the trained leaves;
        `resume` is given them too.
    """

    begin: Callable[[Params, Settings], State]
    begin_task: Callable[[Shared, State, Batch, Settings], State]
    step: Callable[[Shared, State, Batch, Settings], tuple[State, StepMetrics]]
    logits: Callable[[Shared, State, Array, Array], Array]
    trained: Callable[[State], Params]
    resume: Callable[[State, Params], State]
    frozen: Callable[[Params], Params]
    end_task: Callable[[Shared, State, Batch, Settings], State] | None = None
    carried: Callable[[State], Params] = _nothing


def dense_trainer(
    model: Decoder,
    optimizer: OptimizerConfig,
    trains: Callable[[str], bool] = lambda _: True,
    keep_optimizer_state: bool = False,
    *,
    loss: LossFn | None = None,
) -> Trainer[DenseState]:
    """Full finetuning, replay, pretraining (all leaves) and healing (the memory's leaves).

    Running statistics of query BatchNorm train with nobody: an optimizer never sees them.

    Args:
      model: a decoder.
      optimizer: how gradients become updates.
      trains: which leaves train, by path.
      keep_optimizer_state: whether moments outlive a task.
      loss: what is minimised and moves the running statistics (`batch_norm.training_loss`,
        `healing.distillation_loss`); ``None``: the loss on text, which leaves them as they are.
    """
    logits = plain_logits(model)

    def is_trained(path: str) -> bool:
        return trains(path) and not is_batch_stats(path)

    def is_followed(path: str) -> bool:
        return loss is not None and is_batch_stats(path)

    return _whole_params(
        logits,
        text_loss(logits) if loss is None else loss,
        optimizer,
        lambda base, _: split(base, is_trained)[0],
        lambda base: split(base, is_followed)[0],
        lambda base: split(base, lambda path: is_trained(path) or is_followed(path))[1],
        keep_optimizer_state,
    )


def lora_trainer(
    model: Decoder,
    optimizer: OptimizerConfig,
    rank: int,
    alpha: float,
    targets: tuple[str, ...],
    keep_optimizer_state: bool = False,
) -> Trainer[DenseState]:
    """LoRA (2106.09685): two low-rank factors beside each target, the base frozen.

    Args:
      model: a decoder.
      optimizer: how gradients become updates.
      rank: of the factors.
      alpha: the adapters' output is scaled by ``alpha / rank``.
      targets: names of the projections that get adapters, as `init_lora` takes them.
      keep_optimizer_state: whether moments outlive a task.
    """
    plain = plain_logits(model)

    def logits(params: Params, tokens: Array, valid: Array) -> Array:
        adapters = {p: leaf for p, leaf in params.items() if p.endswith(("/a", "/b"))}
        base = {p: leaf for p, leaf in params.items() if p not in adapters}
        with apply_lora(adapters, alpha):
            return plain(base, tokens, valid)

    return _whole_params(
        logits,
        text_loss(logits),
        optimizer,
        lambda base, settings: init_lora(
            unflatten(base), rank, targets, jax.random.key(settings.seed)
        ),
        lambda base: {},
        lambda base: dict(base),
        keep_optimizer_state,
    )


def _whole_params(
    logits: LogitsFn,
    loss: LossFn,
    optimizer: OptimizerConfig,
    trainable: Callable[[Params, Settings], Params],
    followed: Callable[[Params], Params],
    frozen: Callable[[Params], Params],
    keep_optimizer_state: bool,
) -> Trainer[DenseState]:
    inner = optimizer.transformation()

    def begin(base: Params, settings: Settings) -> DenseState:
        params = trainable(base, settings)
        return DenseState(
            params,
            inner.init(params),
            jnp.zeros((), jnp.int32),
            jnp.full((), -1, jnp.int32),
            followed(base),
        )

    def begin_task(
        shared: Shared, state: DenseState, examples: Batch, settings: Settings
    ) -> DenseState:
        del shared, examples, settings
        if keep_optimizer_state:
            return state
        return state._replace(opt_state=inner.init(state.params), step=jnp.zeros_like(state.step))

    def step(
        shared: Shared, state: DenseState, batch: Batch, settings: Settings
    ) -> tuple[DenseState, StepMetrics]:
        return dense_step(loss, optimizer, shared.frozen, state, batch, settings)

    def trained(state: DenseState) -> Params:
        return {**state.params, **state.batch_stats}

    def resume(state: DenseState, params: Params) -> DenseState:
        return state._replace(
            params={path: params[path] for path in state.params},
            batch_stats={path: params[path] for path in state.batch_stats},
        )

    return Trainer(
        begin=begin,
        begin_task=begin_task,
        step=step,
        logits=lambda shared, state, tokens, valid: logits(
            {**shared.frozen, **trained(state)}, tokens, valid
        ),
        trained=trained,
        resume=resume,
        frozen=frozen,
    )
