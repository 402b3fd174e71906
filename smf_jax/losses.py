"""The loss of a batch, negative log-likelihood weighted by token; how far predictions moved."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

B = TypeVar("B")


def token_losses(
    logits: Float[Array, "b t vocabulary"], targets: Int[Array, "b t"]
) -> Float[Array, "b t"]:
    """Negative log-likelihood of every target, in nats; ``logits`` float32 at least."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def weighted_loss(
    logits: Float[Array, "b t vocabulary"],
    targets: Int[Array, "b t"],
    weights: Float[Array, "b t"],
) -> Float[Array, ""]:
    """``L = Σ m·nll / Σ m`` with ``m = weights``: 1 on answers, 0 on pads (method of L25, S26).

    A batch whose weights are all zero has loss zero.
    """
    # Masked before the product: a pad's logits may be anything, and 0 · inf is not 0.
    losses = jnp.where(weights > 0, token_losses(logits, targets), 0)
    total = jnp.sum(weights)
    return jnp.sum(losses * weights) / jnp.maximum(total, jnp.finfo(total.dtype).tiny)


def kl_to_base(
    base: Float[Array, "b t vocabulary"], now: Float[Array, "b t vocabulary"]
) -> Float[Array, "b t"]:
    """``KL(base ‖ now) = Σ_v p(v) (log p(v) - log q(v))`` of every place, in nats, from logits.

    ``p`` is the base's prediction and ``q`` that of now: it is dear to make improbable what the
    base would say, cheap to add to it.
    """
    return optax.losses.kl_divergence_with_log_targets(
        jax.nn.log_softmax(now), jax.nn.log_softmax(base)
    )


def count_scored(weights: Float[np.ndarray, "*lead t"]) -> int:
    """Most targets of weight in a row, rounded up to a multiple of 8 so that few shapes arise."""
    most = int(np.count_nonzero(weights, axis=-1).max(initial=1))
    return min(weights.shape[-1], -(-most // 8) * 8)


def at_scored(
    batch: B, weights: Float[Array, "b t"], count: int | None
) -> tuple[B, Int[Array, "b m"] | None]:
    """The fields ``(b, t)`` of a batch at the targets of weight, and their places; ``m = count``.

    A head of a large vocabulary is applied to these places alone. ``count`` is at least as large
    as the number of such targets in any row (`count_scored`); rows of fewer are filled up with
    targets of no weight. With ``None``, or ``m = t``, the batch stays as it is, places ``None``.
    """
    if count is None or count >= weights.shape[1]:
        return batch, None
    # Ties go to the lower place, so that the order stays.
    _, places = jax.lax.top_k((weights != 0).astype(jnp.int32), count)
    return jax.tree.map(lambda field: jnp.take_along_axis(field, places, axis=1), batch), places


def all_finite(tree: object) -> Array:
    """Whether every number of every leaf is finite."""
    params = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(params)) if params else jnp.ones((), bool)
