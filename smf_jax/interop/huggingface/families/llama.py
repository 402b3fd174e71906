"""Llama: biases where ``attention_bias`` and ``mlp_bias`` say so, on the outputs too."""

from __future__ import annotations

from typing import Any

from smf_jax.interop.huggingface.family import MODULES, FamilyFormat
from smf_jax.typed_json import JsonObject


def _read(told: JsonObject, layers: int) -> dict[str, Any]:
    bias = told.get("attention_bias", bool) or False
    return {
        "attention_bias": bias,
        "attention_output_bias": bias,
        "feed_forward_bias": told.get("mlp_bias", bool) or False,
    }


LLAMA = FamilyFormat(
    name="llama",
    architecture="LlamaForCausalLM",
    assumed={"max_position_embeddings": 2048},
    read=_read,
    modules=MODULES,
)
