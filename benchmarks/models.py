"""Whole models to be timed: their shapes, random leaves, batches, and what a step of them needs."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.block import random_table
from benchmarks.costs import BlockShape, Cost, after_cost, forward_cost
from smf_jax.continual.config import PretrainFlags
from smf_jax.continual.pretraining import model_config
from smf_jax.data.batching import Batch
from smf_jax.memory.config import MemoryConfig
from smf_jax.models.config import MemoryPlacement, ModelConfig
from smf_jax.models.decoder import abstract_params
from smf_jax.params import Params, flatten, pool_path
from smf_jax.sparse.usage import PoolUsage
from smf_jax.training.step import Settings

_WIDE = 4
_BACKGROUND_BATCHES = 50
_PATTERN = 65_537  # a prime: no width divides it


def built_in_decoder(slots: int, scale: float = 1.0) -> ModelConfig:
    """The shape of the built-in base, with so many table slots."""
    width = 8 * max(4, round(16 * scale))
    flags = PretrainFlags(
        keys_per_half=math.isqrt(slots),
        width=width,
        hidden_width=2 * width,
        layers=max(2, round(4 * scale)),
        vocabulary=max(64, round(2048 * scale)),
    )
    return model_config(flags, flags.vocabulary)


def nine_million_decoder(memory: MemoryConfig, scale: float = 1.0) -> ModelConfig:
    """Nine million parameters, and a memory in place of a feed-forward in the middle."""
    width = 8 * max(4, round(32 * scale))
    layers = max(2, round(8 * scale))
    return ModelConfig(
        family="llama",
        vocabulary=max(64, round(8192 * scale)),
        width=width,
        layers=layers,
        heads=4,
        key_value_heads=4,
        head_width=width // 4,
        hidden_width=7 * width // 2,
        tied=True,
        memory=MemoryPlacement((layers // 2,), "pretrain", memory),
    )


def large_decoder(memory: MemoryConfig, scale: float = 1.0, dtype: str = "bfloat16") -> ModelConfig:
    """The 1.3B model of 2510.15103: 22 layers, a memory in place of the feed-forward of layer 12.

    Args:
      memory: of layer 12.
      scale: shrinks depth and widths alike.
      dtype: compute dtype.
    """
    layers = max(2, round(22 * scale))
    heads = max(1, round(32 * scale))
    return ModelConfig(
        family="llama",
        vocabulary=max(64, round(32_000 * scale)),
        width=64 * heads,
        layers=layers,
        heads=heads,
        key_value_heads=heads,
        head_width=64,
        hidden_width=192 * heads,
        dtype=dtype,  # pyright: ignore[reportArgumentType]
        memory=MemoryPlacement((min(12, layers // 2),), "pretrain", memory),
    )


def memory_of(config: ModelConfig) -> MemoryPlacement:
    """The placement of a model that has memories."""
    if config.memory is None:
        raise ValueError("the model has no memory; place one")
    return config.memory


def abstract_leaves(config: ModelConfig, dtype: str = "float32") -> Params:
    """Shapes of all leaves by path, in a dtype."""
    shapes = flatten(abstract_params(config))
    return {path: jax.ShapeDtypeStruct(leaf.shape, dtype) for path, leaf in shapes.items()}  # pyright: ignore[reportReturnType]


def random_leaves(config: ModelConfig, dtype: str = "float32", seed: int = 0) -> Params:
    """Random leaves by path, of the size of fresh ones; numbers recur, but in no row alike."""
    rng = np.random.default_rng(seed)
    pattern = rng.standard_normal(_PATTERN, np.float32)
    params: Params = {}
    for path, leaf in abstract_leaves(config, dtype).items():
        if path.endswith("/values"):
            params[path] = random_table(*leaf.shape, dtype=dtype)
        elif path.endswith(("scale", "alpha")):
            params[path] = jnp.ones(leaf.shape, dtype)
        else:
            fan_in = leaf.shape[-1 if "embedding" in path or "keys" in path else 0]
            rolled = np.roll(pattern, rng.integers(_PATTERN)) * np.float32(fan_in**-0.5)
            params[path] = jnp.asarray(np.resize(rolled.astype(leaf.dtype), leaf.shape))
    return params


def random_batch(config: ModelConfig, rows: int, length: int, seed: int = 0) -> Batch:
    """Full rows of random tokens; the last half of each is its answer."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, config.vocabulary, (rows, length + 1)).astype(np.int32)
    weights = np.where(np.arange(length) >= length // 2, 1.0, 0.1).astype(np.float32)
    fields = (
        tokens[:, :-1],
        tokens[:, 1:],
        np.tile(weights, (rows, 1)),
        np.ones((rows, length), bool),
    )
    return Batch(*(jnp.asarray(field) for field in fields))


def random_usage(config: ModelConfig, seed: int = 0) -> dict[str, PoolUsage]:
    """A made-up background of every pool."""
    placement = memory_of(config)
    shape = (placement.memory.slots,)
    usage = {}
    for pool in placement.pools:
        df = jax.random.randint(jax.random.key(seed + pool), shape, 0, _BACKGROUND_BATCHES)
        usage[pool_path(pool)] = PoolUsage(df, 2 * df, jnp.asarray(_BACKGROUND_BATCHES, jnp.int32))
    return usage


def settings_for(budget: int, learning_rate: float = 1e-3) -> Settings:
    """Settings of one trial."""
    return Settings(
        learning_rate=jnp.asarray(learning_rate, jnp.float32),
        budget=jnp.asarray(budget, jnp.int32),
        seed=jnp.asarray(0, jnp.uint32),
    )


def block_of(config: ModelConfig, tokens: int, budget: int, table_dtype: str) -> BlockShape:
    """The memory block of a model, for its costs."""
    memory = memory_of(config).memory
    return BlockShape(memory, tokens, config.width, budget, config.dtype, table_dtype)


def model_cost(
    config: ModelConfig,
    method: str,
    tokens: int,
    budget: int,
    dtype: str = "float32",
    states: int = 2,
) -> Cost:
    """Operations and bytes of one step, attention's own products left out.

    Args:
      config: with memories.
      method: ``smf`` goes back to the lowest memory only; ``lora`` through all blocks;
        ``full`` also makes every gradient and updates every leaf.
      tokens: of the batch.
      budget: rows that a step may change.
      dtype: of the leaves.
      states: numbers of optimizer state for each trained one, of ``full``.
    """
    placement = memory_of(config)
    narrow = jnp.dtype(dtype).itemsize
    sizes = {path: math.prod(leaf.shape) for path, leaf in abstract_leaves(config).items()}
    plain = {path: size for path, size in sizes.items() if not path.startswith("memory/")}
    # A tied embedding is the head too; an untied one is only looked up.
    kernels = {
        path: size
        for path, size in plain.items()
        if path.endswith("/kernel") or (config.tied and path.startswith("embedder/"))
    }
    lowest = min(placement.layers)
    above = sum(size for path, size in kernels.items() if _layer(path, config.layers) >= lowest)
    whole = sum(kernels.values())
    back = above if method == "smf" else whole
    operations = 2.0 * tokens * (whole + back)
    moved = narrow * (whole + back)
    memory = block_of(config, tokens, budget, dtype)
    blocks = forward_cost(memory)
    if method == "smf":
        blocks = blocks + after_cost(memory)
    if method == "full":
        everything = sum(sizes.values())
        operations += 2.0 * tokens * whole + everything
        moved += (
            _WIDE * everything * (4 + 2 * states)
        )  # gradient, leaf and states, read and written
    each = Cost(moved, operations)
    for _ in placement.layers:
        each = each + blocks
    return each


def _layer(path: str, layers: int) -> int:
    """The block that a leaf belongs to; the embedding as a head comes after all of them."""
    module = path.partition("/")[0]
    return int(module.removeprefix("layers_")) if module.startswith("layers_") else layers
