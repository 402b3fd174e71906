"""Retrofits: memories put into a pretrained decoder, whose own parameters keep their paths."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike

from smf_jax.models.config import MemoryPlacement, ModelConfig
from smf_jax.models.decoder import init_params
from smf_jax.params import MEMORY, block_of, block_path, flatten, unflatten


def retrofit(
    config: ModelConfig,
    params: Mapping[str, Any],
    placement: MemoryPlacement,
    key: Array,
    *,
    dtype: DTypeLike = jnp.float32,
) -> tuple[ModelConfig, dict[str, Any]]:
    """Puts fresh memories into a pretrained model (``add`` 2605.03229, ``replace`` 2604.05248).

    Mode ``add`` keeps the feed-forwards of the layers with memories, ``replace`` drops them. The
    nested parameters are shared with the result, not copied; everything new sits under ``memory``
    and is float32 also in a bfloat16 model: at bfloat16 a step of SGD on a row rounds to nothing.
    A model that has memories, mode ``pretrain`` or a layer out of range is a ValueError.
    """
    if config.memory is not None:
        raise ValueError(
            f"the model has memories in layers {config.memory.layers} already; retrofit its base"
        )
    if placement.mode == "pretrain":
        raise ValueError(
            "mode='pretrain' builds memories in from the start; retrofit with 'add' or 'replace'"
        )
    config = config.with_memory(placement)
    kept = {path: leaf for path, leaf in flatten(params).items() if not is_replaced(config, path)}
    fresh = jax.tree.map(partial(_cast, dtype), init_memory(config, key))
    return config, unflatten(kept) | {MEMORY: fresh}


def _cast(dtype: DTypeLike, leaf: Array) -> Array:
    return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


@partial(jax.jit, static_argnames="config")
def init_memory(config: ModelConfig, key: Array) -> dict[str, Any]:
    """Fresh float32 parameters of a model's memories; those of the rest are never computed."""
    return init_params(config, key)[MEMORY]


def is_replaced(config: ModelConfig, path: str) -> bool:
    """Whether a leaf of a model without memories is of a feed-forward that one stands in for."""
    block = block_of(path)
    if block is None or not path.startswith(f"{block_path(block)}/feed_forward/"):
        return False
    return not config.has_feed_forward(block)
