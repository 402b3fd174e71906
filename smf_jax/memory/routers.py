"""Routers: how the tokens of a memory layer find the rows they read, and what each counts with.

A router is a module that shares its layer's scope: its parameters stand beside the layer's own. It
is given the layer's input and, if it looks at tokens (`MemoryConfig.context_tokens`), their ids.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from smf_jax.memory.config import MemoryConfig, Router
from smf_jax.memory.ngrams import ngram_slots
from smf_jax.memory.norms import EPSILON, RMS_EPSILON, BatchNorm, latest
from smf_jax.memory.product_keys import product_key_lookup, read_weights

# Scores and slots before they become weights, for whoever makes this collection mutable.
LOOKUPS = "lookups"


class Route(NamedTuple):
    """The slots that every token reads, and what their rows count with."""

    slots: Int[Array, "t h k"]  # int32 in ``[0, N)``
    weights: Float[Array, "t h k"]


class ProductKeyRouter(nn.Module):
    """The best product keys of a query made from the hidden state (PKM 1907.05242, section 3)."""

    config: MemoryConfig
    dtype: DTypeLike = jnp.float32  # compute dtype of the projection; scores are float32 at least
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "t d"],
        valid: Bool[Array, " t"] | None,
        recent: Int[Array, "t w"] | None,
    ) -> Route:
        """``valid`` is false on pads, for norms over the batch; the tokens have no say."""
        del recent
        lookup = product_key_lookup(self._queries(x, valid), self._keys(), self.config.reads)
        self.sow(LOOKUPS, "lookup", lookup, init_fn=latest, reduce_fn=latest)
        return Route(lookup.slots, read_weights(lookup.scores, self.config.score))

    def _queries(
        self, x: Float[Array, "t d"], valid: Bool[Array, " t"] | None
    ) -> Float[Array, "t h 2 c"]:
        """Head-major queries; the first half of a head's query is sub-query 1."""
        config, param_dtype = self.config, self.param_dtype
        width, start = config.heads * config.key_width, nn.initializers.xavier_uniform()
        dtypes = self.dtype, param_dtype
        dense = nn.Dense(width, config.query_bias, *dtypes, kernel_init=start, name="query")
        queries = dense(x)
        if config.query_norm == "batch":
            norm = BatchNorm(config.epsilon(EPSILON), param_dtype, name="query_norm")
            queries = norm(queries, valid)
        queries = queries.reshape(-1, config.heads, 2, config.key_width // 2)
        if config.query_norm == "layer":
            queries = layer_norm(config, param_dtype, "query_norm")(queries)
        elif config.query_norm == "rms":
            queries = rms_norm(config, param_dtype, "query_norm")(queries)
        elif config.qk_norm:
            queries = self._qk_normalised(queries, "query_scale", 1.0)
        return queries

    def _keys(self) -> Float[Array, "h 2 n c"]:
        config = self.config
        half = config.key_width // 2
        bound = 1 / math.sqrt(config.key_width if config.key_scale == "memory+" else half)

        def uniform(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        shape = (config.heads, 2, config.keys_per_half, half)
        keys = self.param("keys", uniform, shape, self.param_dtype)

        # 1/√c: sub-scores start with variance one, near that of the raw products they replace.
        return self._qk_normalised(keys, "key_scale", half**-0.5) if config.qk_norm else keys

    def _qk_normalised(self, x: Float[Array, "... c"], name: str, start: float) -> Array:
        x = x.astype(jnp.promote_types(jnp.float32, x.dtype))
        scale = self.param(name, nn.initializers.constant(start), x.shape[-1:], self.param_dtype)
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        factor = jax.lax.rsqrt(mean_square + self.config.epsilon(RMS_EPSILON))
        return x * factor * jnp.expand_dims(scale, range(x.ndim - 1))


class NgramRouter(nn.Module):
    """Hashes of the last ids (`ngram_slots`); no parameters, and the hidden state has no say.

    Rows that are summed count with ``1/k``, so that those of a head weigh one together, as the
    winners of a softmax do; rows side by side count whole.
    """

    config: MemoryConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "t d"],
        valid: Bool[Array, " t"] | None,
        recent: Int[Array, "t w"] | None,
    ) -> Route:
        """``recent`` are the last ``w = max_ngram`` ids, as `recent_tokens` gives them."""
        del valid
        config = self.config
        if recent is None or recent.shape[-1] != config.max_ngram:
            shape = None if recent is None else recent.shape[-1]
            raise ValueError(
                f"router='ngram' was given the last {shape} tokens of each place, and needs "
                f"max_ngram={config.max_ngram}; give the layer recent=recent_tokens(tokens, "
                f"valid, {config.max_ngram}).tokens"
            )
        slots = ngram_slots(recent, config.heads, config.slots)
        weight = 1.0 if config.join == "concat" else 1 / config.reads_per_head
        return Route(slots, jnp.full(slots.shape, weight, jnp.promote_types(x.dtype, jnp.float32)))


ROUTERS: dict[Router, Callable[..., nn.Module]] = {
    "product_keys": ProductKeyRouter,
    "ngram": NgramRouter,
}


def layer_norm(config: MemoryConfig, param_dtype: DTypeLike, name: str) -> nn.LayerNorm:
    """A layer norm of a memory, in float32."""
    given = config.epsilon(EPSILON), jnp.float32, param_dtype
    return nn.LayerNorm(*given, use_fast_variance=False, name=name)


def rms_norm(config: MemoryConfig, param_dtype: DTypeLike, name: str) -> nn.RMSNorm:
    """An RMS norm of a memory, in float32."""
    return nn.RMSNorm(config.epsilon(RMS_EPSILON), jnp.float32, param_dtype, name=name)
