"""SmolLM3: Llama in which every fourth block goes without rotary positions.

``no_rope_layers`` has a number for each block, **1 where it does rotate** and 0 where it does not;
without it every ``no_rope_layer_interval``-th block does not. Other differences from Llama are what
a file may leave out: the head is tied, eight times as long a wavelength.
"""

from __future__ import annotations

from typing import Any

from smf_jax.interop.huggingface.family import MODULES, FamilyFormat
from smf_jax.models.config import ModelConfig
from smf_jax.typed_json import JsonObject

_ROTATES, _EVERY = "no_rope_layers", "no_rope_layer_interval"


def _read(told: JsonObject, layers: int) -> dict[str, Any]:
    bias = told.get("attention_bias", bool) or False
    rotates = told.many(_ROTATES, int, least=0, most=1)
    if told.values.get(_ROTATES) is None:
        every = told.need(_EVERY, int, least=1)
        rotates = [int((layer + 1) % every != 0) for layer in range(layers)]
    told.require(len(rotates) >= layers, _ROTATES, f"0 or 1 for each of num_hidden_{layers=}")
    return {
        "attention_bias": bias,
        "attention_output_bias": bias,
        "feed_forward_bias": told.get("mlp_bias", bool) or False,
        "unrotated_layers": tuple(layer for layer in range(layers) if not rotates[layer]),
    }


def _write(config: ModelConfig) -> dict[str, Any]:
    rotates = [int(layer not in config.unrotated_layers) for layer in range(config.layers)]
    return {
        _ROTATES: rotates,
        "layer_types": ["full_attention"] * config.layers,
        "use_sliding_window": False,
        "sliding_window": None,
        "pad_token_id": None,  # left out it is 128,004, which a smaller vocabulary does not have
    }


SMOLLM3 = FamilyFormat(
    name="smollm3",
    architecture="SmolLM3ForCausalLM",
    assumed={
        "num_key_value_heads": 4,
        "rope_theta": 2_000_000.0,
        "tie_word_embeddings": True,
        "max_position_embeddings": 32_768,
        _EVERY: 4,
    },
    read=_read,
    modules=MODULES,
    write=_write,
)
