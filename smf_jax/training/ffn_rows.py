"""The trainer of a control without a memory: a task's own rows of the feed-forwards' last maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from smf_jax.data.batching import Batch
from smf_jax.models.decoder import Decoder, plain_logits
from smf_jax.params import Params
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.dense_step import DenseState, LossFn, dense_step, text_loss
from smf_jax.training.step import Settings, Shared, StepMetrics
from smf_jax.training.trainers import Trainer, batch_rows_at_once, dense_trainer

FfnRule = Literal["gradient", "random"]


class FfnRowsState(NamedTuple):
    """What a step changes, and which rows of it."""

    dense: DenseState  # of whole kernels, by path
    chosen: dict[str, Bool[Array, " hidden"]]  # by path, the rows that this task may move
    begun: Int[Array, ""]  # tasks

    @property
    def params(self) -> Params:
        """The kernels."""
        return self.dense.params

    @property
    def opt_state(self) -> Any:
        """That of the optimizer."""
        return self.dense.opt_state

    @property
    def failed_step(self) -> Int[Array, "..."]:
        """The first step that was not accepted, or -1."""
        return self.dense.failed_step


def is_down(path: str) -> bool:
    """Whether a leaf is the last map ``(hidden, d)`` of a feed-forward, a row for a hidden unit."""
    return path.endswith("/feed_forward/down/kernel")


def ffn_rows_trainer(
    model: Decoder,
    optimizer: OptimizerConfig,
    count: int,
    rule: FfnRule = "gradient",
    *,
    scored: int | None = None,
) -> Trainer[FfnRowsState]:
    """Trains ``count`` rows of all ``down`` kernels together, chosen when a task begins.

    A feed-forward is a memory whose slots are its hidden units (2012.14913), so this is sparse
    memory finetuning of what is there already: by the rule ``gradient`` those rows move in which
    the gradient of the task's examples has the largest norms, by ``random`` any. Other rows keep
    their bits; moments start anew with a task. ``scored`` is that of `text_loss`.
    """
    whole = dense_trainer(model, optimizer, is_down, scored=scored)
    minimised = text_loss(plain_logits(model), scored)

    def begin(base: Params, settings: Settings) -> FfnRowsState:
        dense = whole.begin(base, settings)
        none = {path: jnp.zeros(leaf.shape[0], bool) for path, leaf in dense.params.items()}
        return FfnRowsState(dense, none, jnp.zeros((), jnp.int32))

    def begin_task(
        shared: Shared, state: FfnRowsState, examples: Batch, settings: Settings
    ) -> FfnRowsState:
        dense = whole.begin_task(shared, state.dense, examples, settings)
        if rule == "gradient":
            scores = gradient_norms(minimised, dense.params, shared.frozen, examples)
        else:
            key = jax.random.fold_in(jax.random.key(settings.seed), state.begun)
            scores = random_scores(dense.params, key)
        return FfnRowsState(dense, best_rows(scores, count), state.begun + 1)

    def step(
        shared: Shared, state: FfnRowsState, batch: Batch, settings: Settings
    ) -> tuple[FfnRowsState, StepMetrics]:
        def chosen_rows(own: Params, others: Params) -> Params:
            chosen = state.chosen
            return {path: jnp.where(chosen[path][:, None], own[path], others[path]) for path in own}

        def loss(params: Params, batch: Batch) -> tuple[Array, Params]:
            # Rows that stay have no gradient: none that a bound of the norm would count.
            own = {path: params[path] for path in state.params}
            return minimised({**params, **chosen_rows(own, jax.lax.stop_gradient(own))}, batch)

        rows = batch_rows_at_once(model, scored, batch)
        after, metrics = dense_step(
            loss, optimizer, shared.frozen, state.dense, batch, settings, rows
        )
        params = chosen_rows(after.params, state.params)
        return state._replace(dense=after._replace(params=params)), metrics

    return Trainer(
        begin=begin,
        begin_task=begin_task,
        step=step,
        logits=lambda shared, state, *asked: whole.logits(shared, state.dense, *asked),
        trained=lambda state: whole.trained(state.dense),
        resume=lambda state, saved: state._replace(
            dense=whole.resume(state.dense, saved), begun=jnp.asarray(saved["tasks"])
        ),
        frozen=whole.frozen,
        carried=lambda state: {"tasks": state.begun},
    )


def gradient_norms(
    loss: LossFn, params: Params, frozen: Params, examples: Batch
) -> dict[str, Float[Array, " hidden"]]:
    """By path the norms of the rows of the gradient of all examples ``(chunks, b, t)``.

    Chunks count by the weight of their targets: the last one may hold fewer examples.
    """

    def add(total: Params, chunk: Batch) -> tuple[Params, None]:
        def of_chunk(own: Params) -> Array:
            return loss({**frozen, **own}, chunk)[0] * jnp.sum(chunk.weights)

        gradients = jax.grad(of_chunk)(params)
        return jax.tree.map(jnp.add, total, gradients), None

    total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), examples)
    return {path: jnp.linalg.norm(leaf, axis=1) for path, leaf in total.items()}


def random_scores(params: Params, key: Array) -> dict[str, Float[Array, " hidden"]]:
    """By path uniform draws, one for each row."""
    return {
        path: jax.random.uniform(jax.random.fold_in(key, number), leaf.shape[:1])
        for number, (path, leaf) in enumerate(params.items())
    }


def best_rows(
    scores: Mapping[str, Float[Array, " hidden"]], count: int
) -> dict[str, Bool[Array, " hidden"]]:
    """The ``count`` rows with the largest scores over all paths; of equal ones the first."""
    together = jnp.concatenate(list(scores.values()))
    _, best = jax.lax.top_k(together, count)
    chosen = jnp.zeros(together.shape, bool).at[best].set(True)
    ends = np.cumsum([each.shape[0] for each in scores.values()])[:-1]
    return dict(zip(scores, jnp.split(chosen, ends), strict=True))
