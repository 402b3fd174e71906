"""Qwen2 and Qwen2.5: biases on query, key and value, whatever the file says, and no others."""

from __future__ import annotations

from typing import Any

from smf_jax.interop.huggingface.family import MODULES, FamilyFormat
from smf_jax.models.config import ModelConfig
from smf_jax.typed_json import JsonObject


def _read(told: JsonObject, layers: int) -> dict[str, Any]:
    return {"attention_bias": True}


def _write(config: ModelConfig) -> dict[str, Any]:
    values: dict[str, Any] = {"use_sliding_window": False, "sliding_window": None}
    # Not a key of this family, though heeded: only where it says something.
    usual = config.head_width * config.heads == config.width
    return values | ({"head_dim": ...} if usual else {})


QWEN2 = FamilyFormat(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    assumed={"num_key_value_heads": 32, "max_position_embeddings": 32_768},
    read=_read,
    modules=MODULES,
    write=_write,
)
