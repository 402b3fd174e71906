"""Qwen3: RMS norms of every head's query and key; biases where ``attention_bias`` says so."""

from __future__ import annotations

from typing import Any

from smf_jax.interop.huggingface.family import MODULES, QUERY_KEY_NORMS, FamilyFormat
from smf_jax.models.config import ModelConfig
from smf_jax.typed_json import JsonObject


def _read(told: JsonObject, layers: int) -> dict[str, Any]:
    bias = told.get("attention_bias", bool) or False
    return {"attention_bias": bias, "attention_output_bias": bias, "query_key_norm": True}


def _write(config: ModelConfig) -> dict[str, Any]:
    return {"use_sliding_window": False, "sliding_window": None}


QWEN3 = FamilyFormat(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    assumed={
        "num_key_value_heads": 32,
        "head_dim": 128,
        "max_position_embeddings": 32_768,
    },
    read=_read,
    modules=MODULES | QUERY_KEY_NORMS,
    write=_write,
)
