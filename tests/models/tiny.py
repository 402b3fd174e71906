"""Tiny decoders with random parameters, made without compiling an ``init``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from smf_jax.memory.layer import MemoryConfig
from smf_jax.models.config import MemoryPlacement, ModelConfig, PlacementMode
from smf_jax.models.decoder import abstract_params
from smf_jax.params import flatten, is_memory, unflatten

MEMORY = MemoryConfig(
    keys_per_half=6, heads=2, reads=3, key_width=8, value_width=10, query_norm="rms"
)
PLAIN = ModelConfig(
    family="llama",
    vocabulary=40,
    width=16,
    layers=2,
    heads=4,
    key_value_heads=2,
    head_width=6,
    hidden_width=20,
    max_positions=64,
)
# One of every family, with all that tells it from the others.
FAMILIES: dict[str, ModelConfig] = {
    "llama": PLAIN,
    "qwen2": replace(PLAIN, family="qwen2", head_width=4, attention_bias=True, tied=True),
    "qwen3": replace(PLAIN, family="qwen3", query_key_norm=True),
    "smollm3": replace(PLAIN, family="smollm3", layers=3, unrotated_layers=(1,), tied=True),
    "mistral": replace(PLAIN, family="mistral", sliding_layers=(0, 1), sliding_window=4),
    "olmo2": replace(
        PLAIN,
        family="olmo2",
        query_key_norm_over_heads=True,
        input_norms=False,
        output_norms=True,
        norm_scale="wide",
        norm_epsilon=1e-5,
    ),
    "gemma3_text": replace(
        PLAIN,
        family="gemma3_text",
        layers=3,
        tied=True,
        query_key_norm=True,
        output_norms=True,
        norm_scale="offset",
        activation="gelu_tanh",
        scaled_embedding=True,
        score_width=9.0,
        rope_theta=1e6,
        sliding_layers=(0, 2),
        sliding_window=4,
        sliding_rope_theta=1e4,
    ),
}


def with_memory(mode: str, layers: tuple[int, ...] = (1,), **choices: Any) -> ModelConfig:
    return replace(
        PLAIN, memory=MemoryPlacement(layers, cast(PlacementMode, mode), MEMORY, **choices)
    )


def random_params(config: ModelConfig, seed: int = 0) -> dict[str, Any]:
    """Every leaf random: no bias is zero, no norm is one, norms and α are near one."""
    rng = np.random.default_rng(seed)
    flat = {}
    for path, leaf in flatten(abstract_params(config)).items():
        start = 1.0 if path.endswith(("scale", "alpha")) else 0.0
        if config.norm_scale == "offset" and not is_memory(path):
            start = 0.0  # one is added
        std = 0.2 if leaf.ndim < 2 else leaf.shape[-1 if "embedding" in path else -2] ** -0.5
        flat[path] = jnp.asarray(start + std * rng.standard_normal(leaf.shape), jnp.float32)
    return unflatten(flat)


def random_tokens(config: ModelConfig, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.vocabulary, shape).astype(np.int32)
