"""Mistral: Llama without biases, in which every block may see a window of tokens only.

``sliding_window`` counts the tokens that one looks at, itself among them; null is no window, and so
is one that no sequence of ``max_position_embeddings`` outgrows. A file that leaves it out means
4,096.
"""

from __future__ import annotations

from typing import Any

from smf_jax.interop.huggingface.family import MODULES, PLAIN, FamilyFormat
from smf_jax.models.config import ModelConfig
from smf_jax.typed_json import JsonObject


def _read(told: JsonObject, layers: int) -> dict[str, Any]:
    window = told.get("sliding_window", int, least=1)
    if window is None or window >= told.need("max_position_embeddings", int, least=1):
        return {}
    return {"sliding_window": window, "sliding_layers": tuple(range(layers))}


def _write(config: ModelConfig) -> dict[str, Any]:
    return {"sliding_window": config.sliding_window}


MISTRAL = FamilyFormat(
    name="mistral",
    architecture="MistralForCausalLM",
    assumed={
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "sliding_window": 4096,
    },
    read=_read,
    modules=MODULES,
    write=_write,
    # Layers of several kinds are Ministral's; here they would be read past.
    only=PLAIN | {"layer_types": (None,)},
)
