"""Trainers of the dense methods; that of method ``smf`` stands in `sparse_trainer`.

A trainer is a bundle of pure functions of one trial. Trials that share one differ in
`smf_jax.training.step.Settings` only, hence share its compilations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import jax
from jaxtyping import Array, Int

from smf_jax.data.batching import Batch
from smf_jax.models.activations import rows_at_once
from smf_jax.models.decoder import Decoder, LogitsFn, plain_logits
from smf_jax.models.lora import apply_lora, init_lora
from smf_jax.params import Params, is_batch_stats, split, unflatten, widened
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.tables import is_implicit
from smf_jax.training.dense_step import DenseState, LossFn, dense_step, text_loss
from smf_jax.training.snapshot import Taken, put_state, take_state
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
    """One method, as pure functions of one trial."""

    # ``(base params, settings) -> state`` before the first task.
    begin: Callable[[Params, Settings], State]
    # ``(shared, state, examples, settings) -> state``: the optimizer starts again (or not, if it
    # was told so); ``examples`` are all of the task, ``(chunks, b, t)``.
    begin_task: Callable[[Shared, State, Batch, Settings], State]
    # ``(shared, state, batch, settings) -> (state, metrics)``.
    step: Callable[[Shared, State, Batch, Settings], tuple[State, StepMetrics]]
    # ``(shared, state, tokens, valid, places=None) -> logits`` of the model as trained so far; see
    # `LogitsFn`.
    logits: Callable[..., Array]
    # ``(state) -> leaves by path`` that training may have changed.
    trained: Callable[[State], Params]
    # ``(state, leaves) -> state`` with those leaves in place of the trained ones.
    resume: Callable[[State, Params], State]
    # ``(base leaves) -> leaves by path`` that stay as they are; goes into `Shared`.
    frozen: Callable[[Params], Params]
    # ``(shared, state, examples, settings) -> state`` after the last step of a task, for methods
    # that measure what the task needs; ``None`` for the others.
    end_task: Callable[[Shared, State, Batch, Settings], State] | None = None
    # ``(shared, batch) -> (b, t, d)``, the `Lower` of a batch, where it pays to keep it.
    lower: Callable[[Shared, Batch], Array] | None = None
    # ``(state) -> arrays by path`` that the next task needs beside the trained leaves; `resume` is
    # given them too.
    carried: Callable[[State], Params] = _nothing
    # ``(state, steps) -> state`` on the host, before a task of so many steps: room for what it may
    # write, itself where there is enough. Trials side by side may stand in leading axes.
    grow: Callable[[State, int], State] = lambda state, steps: state
    # ``(states of trials side by side, place) -> arrays by path`` on the host: all that the steps
    # of a task have changed of one of them.
    take: Callable[[State, int], Taken] = take_state
    # ``(state, arrays) -> state``: one trial's at the start of a task, and what `take` gave of it.
    put: Callable[[State, Taken], State] = put_state


def dense_trainer(
    model: Decoder,
    optimizer: OptimizerConfig,
    trains: Callable[[str], bool] = lambda _: True,
    keep_optimizer_state: bool = False,
    *,
    loss: LossFn | None = None,
    scored: int | None = None,
) -> Trainer[DenseState]:
    """Full finetuning, replay, pretraining (all params) and healing (the memory's).

    The paths that ``trains`` accepts do, but for tables that hold written rows only, which no dense
    optimizer could move, and running statistics of query BatchNorm: an optimizer never sees them.
    These are moved by the losses `batch_norm.training_loss` and `healing.distillation_loss`; that
    on text, the default, leaves them as they are, and takes ``scored`` (`text_loss`). Moments
    outlive a task only if ``keep_optimizer_state``.
    """
    logits = plain_logits(model)

    def is_trained(path: str, leaf: Any) -> bool:
        return trains(path) and not is_batch_stats(path) and not is_implicit(leaf)

    def rest(base: Params) -> tuple[Params, Params]:
        batch_stats, others = split(base, is_batch_stats)
        frozen = {path: leaf for path, leaf in others.items() if not is_trained(path, leaf)}
        return ({}, {**frozen, **batch_stats}) if loss is None else (batch_stats, frozen)

    def trained(base: Params, _: Settings) -> Params:
        return {path: leaf for path, leaf in base.items() if is_trained(path, leaf)}

    minimised = text_loss(logits, scored) if loss is None else loss
    at_once = partial(batch_rows_at_once, model, scored) if loss is None else None
    return _whole_params(logits, minimised, optimizer, trained, rest, keep_optimizer_state, at_once)


def lora_trainer(
    model: Decoder,
    optimizer: OptimizerConfig,
    rank: int,
    alpha: float,
    targets: tuple[str, ...],
    keep_optimizer_state: bool = False,
    *,
    scored: int | None = None,
) -> Trainer[DenseState]:
    """LoRA (2106.09685): two low-rank factors beside each target, the base frozen.

    The adapters' output is scaled by ``alpha / rank``; targets are those of `init_lora`.
    ``scored`` is that of `text_loss`.
    """
    plain = plain_logits(model)

    def logits(
        params: Params, tokens: Array, valid: Array, places: Array | None = None, /
    ) -> Array:
        adapters, base = split(params, lambda path: path.endswith(("/a", "/b")))
        with apply_lora(adapters, alpha):
            return plain(base, tokens, valid, places)

    def adapters(base: Params, settings: Settings) -> Params:
        return init_lora(unflatten(base), rank, targets, jax.random.key(settings.seed))

    def rest(base: Params) -> tuple[Params, Params]:
        return {}, base

    loss, at_once = text_loss(logits, scored), partial(batch_rows_at_once, model, scored)
    return _whole_params(logits, loss, optimizer, adapters, rest, keep_optimizer_state, at_once)


def batch_rows_at_once(model: Decoder, scored: int | None, batch: Batch) -> int:
    """How many rows of a batch a step of whole params takes at a time (`rows_at_once`)."""
    rows, length = batch.tokens.shape
    return rows_at_once(model.config, rows, length, scored)


def _whole_params(
    logits: LogitsFn,
    loss: LossFn,
    optimizer: OptimizerConfig,
    trainable: Callable[[Params, Settings], Params],
    rest: Callable[[Params], tuple[Params, Params]],
    keep_optimizer_state: bool,
    at_once: Callable[[Batch], int] | None,
) -> Trainer[DenseState]:
    """Trains ``trainable(base, settings)``; ``rest(base)`` are followed and frozen params.

    ``at_once`` tells how many rows of a batch are taken at a time; ``None``: all of them.
    What trains is float32 at least, whatever the base is; the model computes in its own dtype.
    """
    inner = optimizer.transformation()

    def begin(base: Params, settings: Settings) -> DenseState:
        return DenseState.start(widened(trainable(base, settings)), inner, rest(base)[0])

    def begin_task(
        shared: Shared, state: DenseState, examples: Batch, settings: Settings
    ) -> DenseState:
        del shared, examples, settings
        return state if keep_optimizer_state else state.restarted(inner)

    def step(
        shared: Shared, state: DenseState, batch: Batch, settings: Settings
    ) -> tuple[DenseState, StepMetrics]:
        rows = None if at_once is None else at_once(batch)
        return dense_step(loss, optimizer, shared.frozen, state, batch, settings, rows)

    def trained(state: DenseState) -> Params:
        return {**state.params, **state.batch_stats}

    def resume(state: DenseState, params: Params) -> DenseState:
        return state._replace(
            params=widened({path: params[path] for path in state.params}),
            batch_stats={path: params[path] for path in state.batch_stats},
        )

    return Trainer(
        begin=begin,
        begin_task=begin_task,
        step=step,
        logits=lambda shared, state, *asked: logits({**shared.frozen, **trained(state)}, *asked),
        trained=trained,
        resume=resume,
        frozen=lambda base: dict(rest(base)[1]),
    )
