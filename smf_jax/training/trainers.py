"""Trainers: what trains, how a task begins, how a step runs, what is kept; the dense methods.

A trainer is a bundle of pure functions of one trial. Trials that share one differ in
`smf_jax.training.step.Settings` only, hence share its compilations. That of method ``smf`` stands
in `sparse_trainer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from smf_jax.data.batching import Batch
from smf_jax.memory.norms import is_running
from smf_jax.models.decoder import Decoder
from smf_jax.models.lora import apply_lora, init_lora
from smf_jax.sparse.update_rule import UpdateRule
from smf_jax.training.dense_step import DenseState, LogitsFn, LossFn, dense_step, text_loss
from smf_jax.training.state import Flat, split, unflatten
from smf_jax.training.step import Settings, StepMetrics

State = Any
Shared = Mapping[str, Any]


class Trainer(NamedTuple):
    """One method, as pure functions of one trial.

    Attributes:
      begin: ``(base leaves, settings) -> state`` before the first task.
      begin_task: ``(shared, state, examples, settings) -> state``: the optimizer starts again (or
        not, if it was told so); ``examples`` are all of the task, ``(chunks, b, t)``.
      step: ``(shared, state, batch, settings) -> (state, metrics)``.
      logits: ``(shared, state, tokens, valid) -> logits``, of the model as trained so far.
      trained: ``(state) -> leaves by path`` that training may have changed.
      resume: ``(state, leaves) -> state`` with those leaves in place of the trained ones.
      frozen: ``(base leaves) -> leaves by path`` that stay as they are; goes into `shared`.
    """

    begin: Callable[[Flat, Settings], State]
    begin_task: Callable[[Shared, State, Batch, Settings], State]
    step: Callable[[Shared, State, Batch, Settings], tuple[State, StepMetrics]]
    logits: Callable[[Shared, State, Array, Array], Array]
    trained: Callable[[State], Flat]
    resume: Callable[[State, Flat], State]
    frozen: Callable[[Flat], Flat]


def plain_logits(model: Decoder) -> LogitsFn:
    """Logits from leaves by path."""

    def logits(leaves: Flat, tokens: Array, valid: Array) -> Array:
        return model.apply({"params": unflatten(leaves)}, tokens, valid)  # pyright: ignore

    return logits


def dense_trainer(
    model: Decoder,
    update: UpdateRule,
    trains: Callable[[str], bool] = lambda _: True,
    keep_optimizer_state: bool = False,
    *,
    loss: LossFn | None = None,
) -> Trainer:
    """Full finetuning, replay, pretraining (all leaves) and healing (the memory's leaves).

    Running statistics of query BatchNorm train with nobody: an optimizer never sees them.

    Args:
      model: a decoder.
      update: the update rule.
      trains: which leaves train, by path.
      keep_optimizer_state: whether moments outlive a task.
      loss: what is minimised and moves the running statistics (`running.training_loss`,
        `healing.distillation_loss`); ``None``: the loss on text, which leaves them as they are.
    """
    logits = plain_logits(model)

    def is_trained(path: str) -> bool:
        return trains(path) and not is_running(path)

    def is_followed(path: str) -> bool:
        return loss is not None and is_running(path)

    return _whole_leaves(
        logits,
        text_loss(logits) if loss is None else loss,
        update,
        lambda base, _: split(base, is_trained)[0],
        lambda base: split(base, is_followed)[0],
        lambda base: split(base, lambda path: is_trained(path) or is_followed(path))[1],
        keep_optimizer_state,
    )


def lora_trainer(
    model: Decoder,
    update: UpdateRule,
    rank: int,
    alpha: float,
    targets: tuple[str, ...],
    keep_optimizer_state: bool = False,
) -> Trainer:
    """LoRA (2106.09685): two low-rank factors beside each target, the base frozen.

    Args:
      model: a decoder.
      update: the update rule.
      rank: of the factors.
      alpha: the adapters' output is scaled by ``alpha / rank``.
      targets: names of the projections that get adapters, as `init_lora` takes them.
      keep_optimizer_state: whether moments outlive a task.
    """
    plain = plain_logits(model)

    def logits(leaves: Flat, tokens: Array, valid: Array) -> Array:
        adapters = {p: leaf for p, leaf in leaves.items() if p.endswith(("/a", "/b"))}
        base = {p: leaf for p, leaf in leaves.items() if p not in adapters}
        with apply_lora(adapters, alpha):
            return plain(base, tokens, valid)

    return _whole_leaves(
        logits,
        text_loss(logits),
        update,
        lambda base, settings: init_lora(
            unflatten(base), rank, targets, jax.random.key(settings.seed)
        ),
        lambda base: {},
        lambda base: dict(base),
        keep_optimizer_state,
    )


def _whole_leaves(
    logits: LogitsFn,
    loss: LossFn,
    update: UpdateRule,
    trainable: Callable[[Flat, Settings], Flat],
    followed: Callable[[Flat], Flat],
    frozen: Callable[[Flat], Flat],
    keep_optimizer_state: bool,
) -> Trainer:
    statistics = update.statistics()

    def begin(base: Flat, settings: Settings) -> DenseState:
        leaves = trainable(base, settings)
        return DenseState(
            leaves,
            statistics.init(leaves),
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
        return state._replace(
            statistics=statistics.init(state.leaves), step=jnp.zeros_like(state.step)
        )

    def step(
        shared: Shared, state: DenseState, batch: Batch, settings: Settings
    ) -> tuple[DenseState, StepMetrics]:
        return dense_step(loss, update, shared["frozen"], state, batch, settings)

    def trained(state: DenseState) -> Flat:
        return {**state.leaves, **state.running}

    def resume(state: DenseState, leaves: Flat) -> DenseState:
        return state._replace(
            leaves={path: leaves[path] for path in state.leaves},
            running={path: leaves[path] for path in state.running},
        )

    return Trainer(
        begin=begin,
        begin_task=begin_task,
        step=step,
        logits=lambda shared, state, tokens, valid: logits(
            {**shared["frozen"], **trained(state)}, tokens, valid
        ),
        trained=trained,
        resume=resume,
        frozen=frozen,
    )
