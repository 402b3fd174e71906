"""The plain parts of a decoder: linear maps, norms, the feed-forward, the embedding."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from smf_jax.models.config import ModelConfig
from smf_jax.models.quantised import code_shapes, precision_at, product

Tokens = Int[Array, "b t"]
Valid = Bool[Array, "b t"]
# The same, or the numbers of the sequences that share a row, from 1, and 0 on pads.
Segments = Bool[Array, "b t"] | Int[Array, "b t"]
Hidden = Float[Array, "b t d"]
Logits = Float[Array, "b t vocabulary"]


def wide_dtype(config: ModelConfig) -> DTypeLike:
    """The compute dtype, or float32 where that is narrower."""
    return jnp.promote_types(jnp.float32, config.dtype)


class Linear(nn.Module):
    """The linear map ``x W + c``, or ``x W`` without a ``bias``."""

    config: ModelConfig
    features: int
    bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b t i"]) -> Float[Array, "b t o"]:
        """From ``(b, t, in)`` to ``(b, t, features)`` in the compute dtype."""
        shape = (x.shape[-1], self.features)
        x = x.astype(self.config.dtype)
        if self.config.precision is None:
            kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
            y = matmul(x, kernel.astype(self.config.dtype))
        else:
            y = product(x, *_quantised(self, self.config, self.features, shape[0]), x.dtype)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, shape[1:], jnp.float32)
            y = y + bias.astype(y.dtype)[None, None]
        return y


def _quantised(
    module: nn.Module, config: ModelConfig, rows: int, columns: int
) -> tuple[Array, Array]:
    """The codes and scales of a module's matrix; fresh ones are zeros."""
    assert config.precision is not None
    precision = precision_at(config.precision, module.path[0])
    codes, kind, scales, scales_kind = code_shapes(precision, rows, columns)
    return (
        module.param("codes", nn.initializers.zeros, codes, kind),
        module.param("scales", nn.initializers.zeros, scales, scales_kind),
    )


def matmul(x: Float[Array, "b t i"], kernel: Float[Array, "i o"], **options: Any) -> Array:
    """``x W`` with batch and tokens as one axis.

    On a CPU its gradient takes 40 % of the time of the three-dimensional product's, for which XLA
    copies the cotangent into a transposed array.
    """
    y = jnp.einsum("ti,io->to", x.reshape(-1, x.shape[-1]), kernel, **options)
    return y.reshape(*x.shape[:-1], kernel.shape[1])


class Norm(nn.Module):
    """RMS norm ``scale · x / √(mean x² + ε)``, in float32 at least, over the last axis."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """Normalises and scales as `ModelConfig.norm_scale` says; in the compute dtype again."""
        offset = self.config.norm_scale == "offset"
        start = nn.initializers.zeros if offset else nn.initializers.ones
        scale = self.param("scale", start, x.shape[-1:], jnp.float32)
        wide = x.astype(wide_dtype(self.config))
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        y = wide * jax.lax.rsqrt(mean_square + self.config.norm_epsilon)
        scale = jnp.expand_dims(scale, range(x.ndim - 1))
        if self.config.norm_scale == "rounded":
            return scale.astype(x.dtype) * y.astype(x.dtype)
        scale = scale.astype(y.dtype)
        return ((1 + scale if offset else scale) * y).astype(x.dtype)


_ACTIVATIONS = {"silu": nn.silu, "gelu_tanh": partial(nn.gelu, approximate=True)}


class FeedForward(nn.Module):
    """The gated feed-forward ``(act(x Wg) ⊙ x Wu) Wd``, normalised where the model does so."""

    config: ModelConfig

    def setup(self) -> None:
        project = partial(Linear, self.config, bias=self.config.feed_forward_bias)
        self.gate = project(self.config.hidden_width)
        self.up = project(self.config.hidden_width)
        self.down = project(self.config.width)
        if self.config.output_norms:
            self.output_norm = Norm(self.config)

    def __call__(self, x: Hidden) -> Hidden:
        """From ``(b, t, d)`` to ``(b, t, d)``."""
        y = self.down(_ACTIVATIONS[self.config.activation](self.gate(x)) * self.up(x))
        return self.output_norm(y) if self.config.output_norms else y


class Embedder(nn.Module):
    """The table of token embeddings, which is the head too where the model ties them."""

    config: ModelConfig

    def setup(self) -> None:
        size = (self.config.vocabulary, self.config.width)
        if self.config.precision is None:
            start = nn.initializers.normal(self.config.width**-0.5)
            self.embedding = self.param("embedding", start, size, jnp.float32)
        else:
            self.codes, self.scales = _quantised(self, self.config, *size)

    def __call__(self, tokens: Tokens) -> Hidden:
        """Embeddings ``(b, t, d)``; a token outside the vocabulary becomes NaN, never a guess."""
        # Below zero jnp.take would count from the end.
        tokens = jnp.where(tokens < 0, self.config.vocabulary, tokens)
        take = partial(jnp.take, indices=tokens, axis=0, mode="fill", fill_value=jnp.nan)
        if self.config.precision is None:
            rows = take(self.embedding)
        else:
            codes = jnp.take(self.codes, tokens, axis=0, mode="clip")
            rows = codes * take(self.scales)[..., None]
        rows = rows.astype(self.config.dtype)
        # The factor is rounded to the compute dtype first, as the checkpoints were trained.
        root = jnp.asarray(self.config.width**0.5, rows.dtype)
        return rows * root if self.config.scaled_embedding else rows

    def attend(self, x: Hidden) -> Logits:
        """Logits ``(b, t, vocabulary)`` of a tied head."""
        wide = wide_dtype(self.config)
        if self.config.precision is not None:
            return product(x, self.codes, self.scales, wide)
        table = self.embedding.astype(self.config.dtype)
        return matmul(x, table.T, preferred_element_type=wide)
