"""Causal grouped-query attention: rotary positions, masks, and the cache of a decode.

Letters beyond those of `smf_jax.shapes`: ``u`` tokens attended to, ``g`` key heads, ``q`` query
heads per key head, ``e`` head width.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from smf_jax.memory.ngrams import NONE
from smf_jax.models.config import ModelConfig
from smf_jax.models.layers import Hidden, Linear, Norm, wide_dtype

Mask = Bool[Array, "b t u"]
Keys = Float[Array, "b u g e"]

_MASKED = -1e30


class Rotation(NamedTuple):
    """Cosines and sines of the rotary angles of some tokens."""

    cosine: Float[Array, "b t half"]
    sine: Float[Array, "b t half"]


class View(NamedTuple):
    """How the tokens of a block see each other: their angles, if it turns them, and their mask."""

    turned: Rotation | None
    mask: Mask


class Cache(NamedTuple):
    """Rotated keys and values of the tokens seen so far, per layer, for decoding token by token.

    `valid` is true where a token stands; `length`, int32, is how many places are filled; `before`
    are the last ids of every row, as many as a memory looks back (`recent_tokens`).
    """

    keys: tuple[Keys, ...]
    values: tuple[Keys, ...]
    valid: Bool[Array, "b u"]
    length: Int[Array, ""]
    before: Int[Array, "b _before"]


class Attention(nn.Module):
    """Grouped-query attention with rotary positions; softmax in float32."""

    config: ModelConfig

    def setup(self) -> None:
        config = self.config
        project = partial(Linear, config, bias=config.attention_bias)
        self.query = project(config.heads * config.head_width)
        self.key = project(config.key_value_heads * config.head_width)
        self.value = project(config.key_value_heads * config.head_width)
        self.output = Linear(config, config.width, bias=config.attention_output_bias)
        if config.query_key_norm or config.query_key_norm_over_heads:
            self.query_norm = Norm(config)
            self.key_norm = Norm(config)
        if config.output_norms:
            self.output_norm = Norm(config)

    def __call__(
        self, x: Hidden, turned: Rotation | None, mask: Mask, past: tuple[Keys, Keys, Array] | None
    ) -> tuple[Hidden, tuple[Keys, Keys]]:
        """Attends from ``x`` to itself and to ``past``, where ``mask`` is true.

        ``past`` has buffers of keys and values, and the place where the tokens of ``x`` begin in
        them; ``None``: these are all there is. The buffers with ``x`` in them are returned too.
        """
        config = self.config
        query, key, value = self._heads(x, turned)
        if past is not None:
            buffers, start = past[:2], (0, past[2], 0, 0)
            key, value = (
                jax.lax.dynamic_update_slice(buffer, new.astype(buffer.dtype), start)
                for buffer, new in zip(buffers, (key, value), strict=True)
            )
        query = query.reshape(*query.shape[:2], config.key_value_heads, config.group, -1)
        scores = jnp.einsum(
            "btgqe,buge->bgqtu", query, key, preferred_element_type=wide_dtype(config)
        )
        scores = scores * (config.score_width or config.head_width) ** -0.5
        scores = jnp.where(mask[:, None, None], scores, _MASKED)
        weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
        y = jnp.einsum("bgqtu,buge->btgqe", weights, value)
        y = self.output(y.reshape(*y.shape[:2], -1))
        return self.output_norm(y) if config.output_norms else y, (key, value)

    def _heads(self, x: Hidden, turned: Rotation | None) -> tuple[Array, Keys, Keys]:
        """Queries ``(b, t, h, e)``, keys and values ``(b, t, g, e)``; the first two rotated."""
        per_head = (*x.shape[:2], -1, self.config.head_width)
        query, key = self.query(x), self.key(x)
        if self.config.query_key_norm_over_heads:
            query, key = self.query_norm(query), self.key_norm(key)
        query, key = query.reshape(per_head), key.reshape(per_head)
        if self.config.query_key_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        return rotate(query, turned), rotate(key, turned), self.value(x).reshape(per_head)


def rotary_frequencies(config: ModelConfig, layer: int = 0) -> Float[np.ndarray, " half"]:
    """Angles per position ``(e/2,)`` in block ``layer``, in float32 as the families compute them.

    Llama-3 scaling keeps short wavelengths, divides the frequency of long ones by ``factor``, and
    blends in between (Llama 3.1 release, ``rope_type: llama3``).
    """
    exponents = np.arange(0, config.head_width, 2, dtype=np.float32) / config.head_width
    theta, scaling = config.rotary(layer)
    frequencies = (1 / np.float32(theta) ** exponents).astype(np.float32)
    if scaling is None:
        return frequencies
    turns = scaling.original_max_positions * frequencies / (2 * np.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (kept * frequencies + (1 - kept) * frequencies / scaling.factor).astype(np.float32)


def rotation(config: ModelConfig, positions: Int[Array, "b t"], layer: int = 0) -> Rotation:
    """Cosines and sines of the rotary angles at ``positions`` in block ``layer``."""
    frequencies = jnp.asarray(rotary_frequencies(config, layer), wide_dtype(config))
    # Products and no einsum: accelerators may round the operands of one to fewer bits.
    angles = positions[:, :, None].astype(frequencies.dtype) * frequencies[None, None]
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Float[Array, "b t h e"], turned: Rotation | None) -> Float[Array, "b t h e"]:
    """Turns the pairs ``(x[j], x[j + e/2])`` of every head by the angles of its token, if any."""
    if turned is None:
        return x
    cosine, sine = turned.cosine[:, :, None], turned.sine[:, :, None]
    first, second = jnp.split(x.astype(cosine.dtype), 2, axis=-1)
    turned_halves = (first * cosine - second * sine, second * cosine + first * sine)
    return jnp.concatenate(turned_halves, axis=-1).astype(x.dtype)


def block_views(
    config: ModelConfig,
    positions: Int[Array, "b t"],
    seen: Int[Array, "b u"],
    mask: Mask,
) -> tuple[View, ...]:
    """How tokens at ``positions`` see those at positions ``seen`` in every block.

    ``mask`` tells which ones a block with full attention looks at.
    """
    near, turned = mask, {}
    for layer in range(config.layers):  # once for all blocks that turn alike
        if layer not in config.unrotated_layers and config.rotary(layer) not in turned:
            turned[config.rotary(layer)] = rotation(config, positions, layer)
    if config.sliding_window is not None:
        near = mask & (positions[:, :, None] - seen[:, None] < config.sliding_window)
    return tuple(
        View(
            None if layer in config.unrotated_layers else turned[config.rotary(layer)],
            near if layer in config.sliding_layers else mask,
        )
        for layer in range(config.layers)
    )


def causal_mask(valid: Bool[Array, "b u"], start: int | Array, length: int) -> Mask:
    """Which of the ``u`` places the ``length`` tokens from ``start`` on may look at.

    Earlier ones where ``valid``, which is false on pads and on places not yet filled.
    """
    looking, looked_at = start + jnp.arange(length), jnp.arange(valid.shape[1])
    return (looked_at[None, :] <= looking[:, None])[None] & valid[:, None]


def segment_mask(segments: Int[Array, "b t"]) -> Mask:
    """Which places the tokens of rows of several sequences may look at: earlier ones of their own.

    ``segments`` numbers the sequences of a row, which follow one another, from 1; 0 on pads.
    """
    same = jnp.expand_dims(segments, 1) == jnp.expand_dims(segments, 2)
    return causal_mask(segments != 0, 0, segments.shape[1]) & same


def count_positions(valid: Bool[Array, "b t"]) -> Int[Array, "b t"]:
    """Each row's valid tokens count from 0; pads before them stand at 0."""
    return jnp.maximum(jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1, 0)


def segment_positions(segments: Int[Array, "b t"]) -> Int[Array, "b t"]:
    """The tokens of each sequence of a row count from 0; ``segments`` as in `segment_mask`."""
    places = jnp.broadcast_to(jnp.arange(segments.shape[1], dtype=jnp.int32), segments.shape)
    before = jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1]
    return places - jax.lax.cummax(jnp.where(segments != before, places, 0), axis=1)


def empty_cache(config: ModelConfig, batch: int, places: int) -> Cache:
    """A cache for ``batch`` rows of up to ``places`` tokens."""
    shape = (batch, places, config.key_value_heads, config.head_width)
    zeros = tuple(jnp.zeros(shape, config.dtype) for _ in range(config.layers))
    before = jnp.full((batch, max(0, config.context_tokens - 1)), NONE, jnp.int32)
    valid = jnp.zeros((batch, places), bool)
    return Cache(zeros, zeros, valid, jnp.zeros((), jnp.int32), before)
