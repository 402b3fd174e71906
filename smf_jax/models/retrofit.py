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
from smf_jax.params import flatten, unflatten

MEMORY = "memory"


def retrofit(
    config: ModelConfig,
    params: Mapping[str, Any],
    placement: MemoryPlacement,
    key: Array,
    *,
    dtype: DTypeLike = jnp.float32,
) -> tuple[ModelConfig, dict[str, Any]]:
    """Puts fresh memories into a pretrained model (``add`` 2605.03229, ``replace`` 2604.05248).

    Args:
      config: of the pretrained model, which has no memory.
      params: its nested parameters; they are shared with the result, not copied.
      placement: where memories stand; mode ``add`` keeps the feed-forwards of these layers,
        ``replace`` drops them.
      key: source of the memories' initial values.
      dtype: of the memories' parameters. Float32 also in a bfloat16 model: at bfloat16 a step of
        SGD on a row rounds to nothing.

    Returns:
      The configuration and the nested parameters of the model with memories; everything new sits
      under ``memory``.

    Raises:
      ValueError: the model has memories already, the mode is ``pretrain``, or a layer is out of
        range.
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
    kept = {path: leaf for path, leaf in flatten(params).items() if not _is_replaced(config, path)}
    fresh = jax.tree.map(lambda leaf: leaf.astype(dtype), init_memory(config, key))
    return config, unflatten(kept) | {MEMORY: fresh}


@partial(jax.jit, static_argnames="config")
def init_memory(config: ModelConfig, key: Array) -> dict[str, Any]:
    """Fresh float32 parameters of a model's memories; those of the rest are never computed."""
    return init_params(config, key)[MEMORY]


def memory_paths(params: Mapping[str, Any]) -> tuple[str, ...]:
    """The paths that train when a retrofit is healed: all under ``memory``, ``α`` among them.

    Args:
      params: nested parameters of a model with memories.

    Raises:
      ValueError: no memory is in the model.
    """
    paths = tuple(path for path in flatten(params) if path.startswith(f"{MEMORY}/"))
    if not paths:
        raise ValueError(
            "the model has no memory, so nothing would train; retrofit it first, with 'add' or "
            "'replace'"
        )
    return paths


def _is_replaced(config: ModelConfig, path: str) -> bool:
    """Whether the leaf belongs to a feed-forward that a memory stands in for."""
    block, _, rest = path.partition("/")
    if not rest.startswith("feed_forward/"):
        return False
    return not config.has_feed_forward(int(block.removeprefix("layers_")))
