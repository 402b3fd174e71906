"""One training step of whole params: full finetuning, replay, LoRA, pretraining, healing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from smf_jax.data.batching import Batch
from smf_jax.losses import all_finite, at_scored, weighted_loss
from smf_jax.mesh import DATA, own_rows, parts_along, sum_over
from smf_jax.models.decoder import LogitsFn
from smf_jax.params import Params
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.step import Settings, StepMetrics, latch, step_params

# A `Batch`, or another named tuple of ``(b, t)`` fields with tokens and weights among them.
Rows = Any
# From all params and a batch: what is minimised, and the running statistics after the batch.
LossFn = Callable[[Params, Rows], tuple[Array, Params]]


class DenseState(NamedTuple):
    """What a dense step changes."""

    params: Params  # the trained ones, or adapters, by path
    opt_state: Any  # their optax state
    step: Int[Array, ""]  # steps since the optimizer started
    failed_step: Int[Array, ""]  # first step whose loss, gradient or result was not finite, or -1
    batch_stats: Params  # running statistics of norms, by path: set by the loss, not the optimizer

    @classmethod
    def start(
        cls,
        params: Params,
        optimizer: optax.GradientTransformation,
        batch_stats: Params | None = None,
    ) -> DenseState:
        """Of parameters that no step has changed yet."""
        step, failed_step = jnp.zeros((), jnp.int32), jnp.full((), -1, jnp.int32)
        return cls(params, optimizer.init(params), step, failed_step, batch_stats or {})

    def restarted(self, optimizer: optax.GradientTransformation) -> DenseState:
        """The same with the optimizer at its start."""
        opt_state = optimizer.init(self.params)
        return self._replace(opt_state=opt_state, step=jnp.zeros_like(self.step))


def text_loss(logits: LogitsFn, scored: int | None = None) -> LossFn:
    """The loss on the next tokens (`weighted_loss`); running statistics are used, not moved.

    At most ``scored`` targets of a row have weight, if given; see `losses.at_scored`.
    """

    def loss(params: Params, batch: Batch) -> tuple[Array, Params]:
        targets, places = at_scored(batch, batch.weights, scored)
        predicted = logits(params, batch.tokens, batch.valid, places)
        return weighted_loss(predicted, targets.targets, targets.weights), {}

    return loss


def loss_and_gradients(
    loss: LossFn, params: Params, batch: Rows, rows_at_once: int | None = None
) -> tuple[tuple[Array, Params], Params]:
    """The loss of a batch with its statistics, and the gradients by path.

    With ``rows_at_once``, a divisor of the batch's rows, the activations of so many rows are held
    at a time: gradients are summed over the parts, each in proportion to its weight. That is exact
    for a mean weighted by token plus what params alone cost; running statistics would be lost. So
    would they be where devices along ``data`` share the batch, whose gradients are summed likewise.
    """
    value_and_grad = jax.value_and_grad(loss, has_aux=True)
    devices = parts_along(DATA)
    if devices == 1 and rows_at_once in (None, batch.tokens.shape[0]):
        return value_and_grad(params, batch)
    own = own_rows(batch)
    rows = own.tokens.shape[0]
    size = next(n for n in range(min(rows_at_once or rows, rows), 0, -1) if rows % n == 0)
    parts = type(own)(*(field.reshape(-1, size, field.shape[1]) for field in own))
    weights = jnp.sum(parts.weights, axis=(1, 2))
    total = sum_over(DATA, jnp.sum(weights))
    shares = jnp.where(total > 0, weights / total, 1 / (weights.size * devices))

    def add(
        sums: tuple[Array, Params], part: tuple[Rows, Array]
    ) -> tuple[tuple[Array, Params], None]:
        examples, share = part
        (value, batch_stats), gradients = value_and_grad(params, examples)
        assert not batch_stats
        scaled = jax.tree.map(lambda leaf: (share * leaf).astype(leaf.dtype), (value, gradients))
        return jax.tree.map(jnp.add, sums, scaled), None

    zeros = (jnp.zeros((), total.dtype), jax.tree.map(jnp.zeros_like, params))
    (value, gradients), _ = jax.lax.scan(add, zeros, (parts, shares))
    value, gradients = sum_over(DATA, (value, gradients))
    return (value, {}), gradients


def dense_step(
    loss: LossFn,
    optimizer: OptimizerConfig,
    frozen: Params,
    state: DenseState,
    batch: Rows,
    settings: Settings,
    rows_at_once: int | None = None,
) -> tuple[DenseState, StepMetrics]:
    """One step that trains whole params: the state after it, and the metrics before it.

    The loss is given all params and running statistics, and returns the latter after the batch. A
    step whose loss, gradient norm or rate is not finite writes nothing, and a leaf that would not
    be finite after it stays as it was. Both are latched as the failed step. ``rows_at_once`` is
    that of `loss_and_gradients`.
    """

    def loss_of(params: Params, batch: Rows) -> tuple[Array, Params]:
        return loss({**frozen, **state.batch_stats, **params}, batch)

    (value, batch_stats), gradients = loss_and_gradients(loss_of, state.params, batch, rows_at_once)
    inner, rate = optimizer.transformation(), optimizer.rate(settings.learning_rate, state.step)
    clipped = optimizer.clipped(gradients)
    moved, opt_state = step_params(inner, clipped, state.params, state.opt_state, rate)
    # The write of a leaf waits for the gradients of all and for its own new numbers. Were it to
    # wait for those of all, XLA's compile time would grow with the square of the depth.
    norm = optax.tree.norm(gradients)
    accepted = all_finite((value, norm, rate, batch_stats)) & (state.failed_step < 0)
    in_range = {path: all_finite(leaf) for path, leaf in moved.items()}
    params = {
        path: jnp.where(accepted & in_range[path], leaf, state.params[path])
        for path, leaf in moved.items()
    }
    opt_state, batch_stats = optax.tree.where(
        accepted, (opt_state, batch_stats), (state.opt_state, state.batch_stats)
    )
    finite = accepted & jnp.all(jnp.stack(list(in_range.values())))
    after = DenseState(
        params=params,
        opt_state=opt_state,
        batch_stats=batch_stats,
        step=state.step + 1,
        failed_step=latch(state.failed_step, state.step, finite),
    )
    return after, StepMetrics(value, jnp.zeros((), jnp.int32))
