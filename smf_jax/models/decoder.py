"""One decoder for all families, with memories beside or in place of feed-forwards."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int

from smf_jax.memory.layer import MemoryLayer, MemoryPool
from smf_jax.memory.ngrams import recent_tokens
from smf_jax.models.attention import (
    Attention,
    Cache,
    Keys,
    Mask,
    Rotation,
    View,
    block_views,
    causal_mask,
    count_positions,
    segment_mask,
    segment_positions,
)
from smf_jax.models.config import MemoryPlacement, ModelConfig
from smf_jax.models.layers import (
    Embedder,
    FeedForward,
    Hidden,
    Linear,
    Logits,
    Norm,
    Segments,
    Tokens,
    Valid,
    wide_dtype,
)
from smf_jax.params import Params, block_of, is_routing, memory_part, unflatten


class LogitsFn(Protocol):
    """A model as a function of its leaves by path."""

    def __call__(
        self, params: Params, tokens: Array, valid: Array, places: Array | None = None, /
    ) -> Array:
        """Logits ``(b, t, vocabulary)``, or ``(b, m, vocabulary)`` at ``places`` ``(b, m)``."""
        ...


# Leaves of a block that a read of that block depends on.
_BEFORE_READ = ("attention_norm/", "attention/", "feed_forward_norm/")


class Decoder(nn.Module):
    """A causal language model; `ModelConfig` says of which family, and where memories stand.

    Parameters are named alike for all families, and a memory never changes the path of another
    parameter: everything it brings sits under ``memory``.
    """

    config: ModelConfig

    def setup(self) -> None:
        config = self.config
        block = nn.remat(Block, methods=["attend", "normalise", "feed"]) if config.remat else Block
        self.embedder = Embedder(config)
        self.layers = [block(config, config.has_feed_forward(i)) for i in range(config.layers)]
        self.final_norm = Norm(config)
        if not config.tied:
            self.head = Linear(config, config.vocabulary)
        if config.memory is not None:
            self.memory = Memory(config.memory, config.width, config.dtype)

    def __call__(
        self,
        tokens: Tokens,
        valid: Segments | None = None,
        positions: Int[Array, "b t"] | None = None,
        places: Int[Array, "b m"] | None = None,
        lower: Hidden | None = None,
    ) -> Float[Array, "b _m vocabulary"]:
        """Logits of the next token at every place, float32 at least; meaningless on pads.

        ``valid`` is false on pads, which may stand on either side, and all true if ``None``;
        without ``positions`` each row's valid tokens count from 0. Integers in its place number
        the sequences that share a row (`smf_jax.data.packing`): none sees another. The head is
        applied to ``places`` only, if given: logits are ``(b, m, vocabulary)`` then. What
        `below_memory` gave for these tokens need not be computed again.
        """
        x = self.features(tokens, valid, positions, lower)
        if places is not None:
            x = jnp.take_along_axis(x, jnp.expand_dims(places, 2), axis=1)
        return self.logits(x)

    def features(
        self,
        tokens: Tokens,
        valid: Segments | None = None,
        positions: Int[Array, "b t"] | None = None,
        lower: Hidden | None = None,
    ) -> Hidden:
        """The normalised output ``(b, t, d)`` of the last block; arguments as for a call."""
        valid = jnp.ones(tokens.shape, bool) if valid is None else valid
        x, first = (self.embed(tokens, valid), 0) if lower is None else (lower, self._lowest)
        blocks = range(first, self.config.layers)
        return self.final_norm(self.through(x, tokens, valid, positions, blocks))

    def below_memory(self, tokens: Tokens, valid: Segments) -> Hidden:
        """What enters the lowest block that has a memory, ``(b, t, d)``."""
        x = self.embed(tokens, valid)
        return self.through(x, tokens, valid, None, range(self._lowest))

    @property
    def _lowest(self) -> int:
        return min(i for i in range(self.config.layers) if self.config.has_memory(i))

    def through(
        self,
        x: Hidden,
        tokens: Tokens,
        valid: Segments,
        positions: Int[Array, "b t"] | None,
        blocks: range,
    ) -> Hidden:
        """What some blocks, without a cache, make of what enters the first of them."""
        self._check_tokens(tokens, tokens.shape[-1])
        recent, _ = self._recent(tokens, valid)
        if jnp.issubdtype(valid.dtype, jnp.integer):
            own, mask, valid = segment_positions(valid), segment_mask(valid), valid != 0
        else:
            own, mask = count_positions(valid), causal_mask(valid, 0, tokens.shape[1])
        positions = own if positions is None else positions
        views = block_views(self.config, positions, positions, mask)
        return self._run(x, valid, views, None, blocks, recent)[0]

    def extend(self, tokens: Tokens, valid: Valid, cache: Cache) -> tuple[Hidden, Cache]:
        """The features of tokens that follow those in a cache, and the extended cache.

        The cache has at least ``t`` free places and is as `empty_cache` or this method returned it.
        """
        self._check_tokens(tokens, cache.valid.shape[1])
        all_valid = jax.lax.dynamic_update_slice(cache.valid, valid, (0, cache.length))
        mask = causal_mask(all_valid, cache.length, tokens.shape[1])
        # Pads may stand between the places of the cache: a window counts tokens, not places.
        seen = count_positions(all_valid)
        positions = count_positions(valid) + jnp.sum(cache.valid, axis=1, keepdims=True)
        views = block_views(self.config, positions, seen, mask)
        blocks = range(self.config.layers)
        x, (recent, before) = self.embed(tokens, valid), self._recent(tokens, valid, cache.before)
        x, (keys, values) = self._run(x, valid, views, cache, blocks, recent)
        length = cache.length + tokens.shape[1]
        return self.final_norm(x), Cache(keys, values, all_valid, length, before)

    def logits(self, x: Hidden) -> Logits:
        """Logits ``(b, t, vocabulary)``, float32 at least, of normalised features."""
        if self.config.tied:
            return self.embedder.attend(x)
        return self.head(x).astype(wide_dtype(self.config))

    def embed(self, tokens: Tokens, valid: Segments) -> Hidden:
        """What enters the first block, ``(b, t, d)``."""
        # Pads may carry any id, also one outside the vocabulary.
        return self.embedder(jnp.where(valid != 0, tokens, 0))

    def _recent(
        self, tokens: Tokens, valid: Segments, before: Int[Array, "b _before"] | None = None
    ) -> tuple[Int[Array, "b t w"] | None, Int[Array, "b _before"]]:
        """The last ids at every place and behind the last one, if a memory looks at them."""
        count = self.config.context_tokens
        if not count:
            return None, jnp.zeros((tokens.shape[0], 0), jnp.int32)
        return recent_tokens(tokens, valid, count, before)

    def _run(
        self,
        x: Hidden,
        valid: Valid,
        views: tuple[View, ...],
        cache: Cache | None,
        blocks: range,
        recent: Int[Array, "b t w"] | None,
    ) -> tuple[Hidden, tuple[tuple[Keys, ...], tuple[Keys, ...]]]:
        """Some blocks, one after the other; also each one's keys and values."""
        keys, values = [], []
        for index in blocks:
            block = self.layers[index]
            past = None if cache is None else (cache.keys[index], cache.values[index], cache.length)
            x, (key, value) = block.attend(x, *views[index], past)
            keys.append(key)
            values.append(value)
            normalised = block.normalise(x)
            y = block.feed(normalised) if self.config.has_feed_forward(index) else 0
            # The residual comes last, so that a memory of α = 0 leaves every bit of the base.
            if self.config.has_memory(index):
                y = y + self.memory(index, normalised, valid, recent)
            x = x + y
        return x, (tuple(keys), tuple(values))

    def _check_tokens(self, tokens: Tokens, places: int) -> None:
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(
                f"tokens are {tokens.dtype}{list(tokens.shape)}; expected integers (b, t), with a "
                "batch axis even for one sequence"
            )
        if places > self.config.max_positions:
            raise ValueError(
                f"{places} tokens exceed max_positions={self.config.max_positions} of this "
                f"{self.config.family} model; shorten the texts or decode fewer steps"
            )


class Block(nn.Module):
    """One block: attention, then a feed-forward unless a memory stands in for it.

    The memory is read by the decoder, so that it stays outside of what `ModelConfig.remat`
    recomputes: a block's methods are the dense halves.
    """

    config: ModelConfig
    has_feed_forward: bool = True

    def setup(self) -> None:
        self.attention = Attention(self.config)
        if self.config.input_norms:
            self.attention_norm = Norm(self.config)
            self.feed_forward_norm = Norm(self.config)
        if self.has_feed_forward:
            self.feed_forward = FeedForward(self.config)

    def attend(
        self, x: Hidden, turned: Rotation | None, mask: Mask, past: tuple[Keys, Keys, Array] | None
    ) -> tuple[Hidden, tuple[Keys, Keys]]:
        """Adds attention to the residual stream; also the keys and values attended to."""
        taken = self.attention_norm(x) if self.config.input_norms else x
        y, keys_and_values = self.attention(taken, turned, mask, past)
        return x + y, keys_and_values

    def normalise(self, x: Hidden) -> Hidden:
        """What the feed-forward and the memory of the block are given.

        That is the residual stream itself where the family normalises outputs alone; the memory
        joins behind that norm, so that its rows are weighed alike in all families.
        """
        return self.feed_forward_norm(x) if self.config.input_norms else x

    def feed(self, normalised: Hidden) -> Hidden:
        """The feed-forward of a block that has one."""
        return self.feed_forward(normalised)


class Memory(nn.Module):
    """All memories of a decoder: the pools, and the layers that read them."""

    placement: MemoryPlacement
    width: int
    dtype: DTypeLike

    def setup(self) -> None:
        placement = self.placement
        alpha = placement.alpha if placement.has_alpha else None
        self.pool = {
            str(p): MemoryPool(placement.memory, self.width, init_rows=placement.init_rows)
            for p in placement.pools
        }
        self.layer = {
            str(i): MemoryLayer(placement.memory, self.width, alpha=alpha, dtype=self.dtype)
            for i in placement.layers
        }

    def __call__(
        self, layer: int, x: Hidden, valid: Valid, recent: Int[Array, "b t w"] | None
    ) -> Hidden:
        """What the memory of block ``layer`` adds for the block's normalised input ``x``."""
        pool = self.pool[str(self.placement.pool_of(layer))]
        return self.layer[str(layer)](x, pool(), valid, pool.inputs(), recent)


@partial(jax.jit, static_argnames="config")
def init_params(config: ModelConfig, key: Array) -> dict[str, Any]:
    """Fresh float32 parameters of a decoder, nested.

    The parameters only: zeros for perturbations are built for the batch at hand, never by
    ``init``, where a left-over shape would broadcast in silence.
    """
    return dict(Decoder(config).init(key, jnp.zeros((1, 1), jnp.int32))["params"])


def abstract_params(config: ModelConfig) -> dict[str, Any]:
    """Shapes and dtypes of `init_params`, without computing anything."""
    return jax.eval_shape(partial(init_params, config), jax.random.key(0))


def plain_logits(model: Decoder) -> LogitsFn:
    """Logits from leaves by path."""

    def logits(
        params: Params, tokens: Array, valid: Array, places: Array | None = None, /
    ) -> Array:
        variables = {"params": unflatten(params)}
        return model.apply(variables, tokens, valid, places=places)  # pyright: ignore

    return logits


def upstream_of_reads(config: ModelConfig, path: str) -> bool:
    """Whether a leaf, given by its path, has a say in which slots are read.

    That is everything below the highest memory layer, and of that layer whatever stands before
    its read. The table that only the highest layer reads is not among them: writing its rows moves
    no routing. Of a hashed router it is nothing: ids alone name the slots.
    """
    placement = config.memory
    if placement is None:
        raise ValueError("the model has no memory, so nothing is upstream of a read")
    if placement.memory.is_hashed:
        return False
    highest = max(placement.layers)
    block, part = block_of(path), memory_part(path)
    if block is not None:
        before = path.partition("/")[2].startswith(_BEFORE_READ)
        return block < highest or (block == highest and before)
    if part is None:
        return path.startswith("embedder/")
    if part.kind == "pool":
        return part.number in [placement.pool_of(i) for i in placement.layers if i < highest]
    return part.number < highest or is_routing(path)
