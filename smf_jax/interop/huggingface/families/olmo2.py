"""OLMo-2: norms behind attention and feed-forward and none before them.

Queries and keys are normalised over all heads at once, before they are split. Norms scale in
float32 and round afterwards. None of this is a key of ``config.json``: it is the family.
"""

from __future__ import annotations

from typing import Any

from smf_jax.interop.huggingface.family import MODULES, QUERY_KEY_NORMS, FamilyFormat
from smf_jax.typed_json import JsonObject


def _read(told: JsonObject, layers: int) -> dict[str, Any]:
    bias = told.get("attention_bias", bool) or False
    return {
        "attention_bias": bias,
        "attention_output_bias": bias,
        "query_key_norm_over_heads": True,
        "input_norms": False,
        "output_norms": True,
        "norm_scale": "wide",
    }


OLMO2 = FamilyFormat(
    name="olmo2",
    architecture="Olmo2ForCausalLM",
    assumed={"rms_norm_eps": 1e-5, "max_position_embeddings": 2048},
    read=_read,
    # The names of Llama's norms before the two parts stay unused: no leaf stands there.
    modules=MODULES
    | QUERY_KEY_NORMS
    | {
        "attention/output_norm": "post_attention_layernorm",
        "feed_forward/output_norm": "post_feedforward_layernorm",
    },
)
