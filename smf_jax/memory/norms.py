"""Norms of a memory's queries and keys that linen does not bring."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float

# The collection that a batch norm sows its batch's statistics into. Where a caller makes it
# mutable the statistics are also used: that is what pretraining and healing do, and nobody else.
STATISTICS = "statistics"
# PyTorch's: running statistics move by a tenth with each batch.
MOMENTUM = 0.1
# Of layer and batch norms, and of RMS norms.
EPSILON, RMS_EPSILON = 1e-5, 1e-6


class Moments(NamedTuple):
    """Statistics of a batch: mean and variance over its ``tokens``, pads left out."""

    mean: Float[Array, " q"]
    variance: Float[Array, " q"]
    tokens: Float[Array, ""]


def batch_moments(x: Float[Array, "t q"], valid: Bool[Array, " t"]) -> Moments:
    """Mean and variance of every number over the tokens that are no pads."""
    weights = valid.astype(x.dtype)
    tokens = jnp.sum(weights)
    share = jnp.expand_dims(weights / jnp.maximum(tokens, 1), 1)
    # Masked before the product: a pad's query may be anything, and 0 · inf is not 0.
    x = jnp.where(valid[:, None], x, 0)
    mean = jnp.sum(share * x, axis=0)
    return Moments(mean, jnp.sum(share * jnp.square(x - mean[None]), axis=0), tokens)


def running_moments(
    mean: Float[Array, " q"], variance: Float[Array, " q"], batch: Moments
) -> tuple[Float[Array, " q"], Float[Array, " q"]]:
    """Running statistics one batch on: ``r ← (1 - m)·r + m·batch`` with ``m = 0.1``.

    As in PyTorch the variance of the population is estimated, with ``n - 1``; a batch of less than
    two tokens says nothing of it and changes nothing.
    """
    step = jnp.where(batch.tokens > 1, MOMENTUM, 0.0)
    unbiased = batch.variance * batch.tokens / jnp.maximum(batch.tokens - 1, 1)
    return (
        (1 - step) * mean + (step * batch.mean).astype(mean.dtype),
        (1 - step) * variance + (step * unbiased).astype(variance.dtype),
    )


def latest(*sown: Any) -> Any:
    """The newest of what was sown; ``None`` before anything was."""
    return sown[-1] if sown else None


class BatchNorm(nn.Module):
    """Batch norm of queries (PKM 1907.05242, section 3.2), pads left out.

    With the statistics of its batch where the collection `STATISTICS` is mutable, else with the
    running ones, which are leaves ``mean`` and ``variance`` that no optimizer may touch: the step
    that made the collection mutable moves them, see `running_moments`.
    """

    epsilon: float = EPSILON
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "t q"], valid: Bool[Array, " t"] | None
    ) -> Float[Array, "t q"]:
        """Normalises every number of ``x`` over the tokens; float32 at least."""
        x = x.astype(jnp.promote_types(jnp.float32, x.dtype))
        shape, dtype = x.shape[1:], self.param_dtype
        scale = self.param("scale", nn.initializers.ones, shape, dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, dtype)
        mean = self.param("mean", nn.initializers.zeros, shape, dtype)
        variance = self.param("variance", nn.initializers.ones, shape, dtype)
        if self.is_mutable_collection(STATISTICS):
            everywhere = jnp.ones(x.shape[:1], bool)
            moments = batch_moments(x, everywhere if valid is None else valid)
            self.sow(STATISTICS, "moments", moments, init_fn=latest, reduce_fn=latest)
            mean, variance = moments.mean, moments.variance
        factor = scale * jax.lax.rsqrt(variance + self.epsilon)
        return (x - mean[None]) * factor[None] + bias[None]
