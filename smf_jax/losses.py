"""The loss of a batch: negative log-likelihood, weighted by token."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


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


def all_finite(tree: object) -> Array:
    """Whether every number of every leaf is finite."""
    params = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(params)) if params else jnp.ones((), bool)
