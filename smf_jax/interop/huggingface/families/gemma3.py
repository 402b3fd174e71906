"""Gemma 3, text only: ``gemma3_text``, of which most blocks see a window of tokens.

``layer_types`` names the kind of every block; without it every ``sliding_window_pattern``-th has
full attention and the others the window. The two kinds turn by bases of their own: ``rope_theta``
and ``rope_local_base_freq``, in the new spelling one for each kind in ``rope_parameters``.
``query_pre_attn_scalar`` is what scores are divided by the root of. The rest is the family: norms
before and behind both parts that scale by ``1 + weight``, queries and keys normalised per head,
a GELU gate, embeddings times the root of the width.
"""

from __future__ import annotations

from typing import Any

from smf_jax.interop.huggingface.family import (
    FULL,
    MODULES,
    PLAIN,
    QUERY_KEY_NORMS,
    SLIDING,
    FamilyFormat,
)
from smf_jax.models.config import ModelConfig
from smf_jax.typed_json import JsonObject

_KINDS, _SCORES, _LOCAL = "layer_types", "query_pre_attn_scalar", "rope_local_base_freq"
_EVERY = "sliding_window_pattern"
_LOCAL_BASE = 10_000.0


def _read(told: JsonObject, layers: int) -> dict[str, Any]:
    bias = told.get("attention_bias", bool) or False
    scores = told.need(_SCORES, float, least=1e-6)
    switches: dict[str, Any] = {
        "attention_bias": bias,
        "attention_output_bias": bias,
        "query_key_norm": True,
        "output_norms": True,
        "norm_scale": "offset",
        "activation": "gelu_tanh",
        "scaled_embedding": True,
        "score_width": None if scores == told.need("head_dim", int) else scores,
    }
    bases = {kind: _base(told, kind) for kind in (FULL, SLIDING)}
    if bases[FULL] is not None:
        switches["rope_theta"] = bases[FULL]
    if sliding := _sliding_layers(told, layers):
        switches |= {
            "sliding_layers": sliding,
            "sliding_window": told.need("sliding_window", int, least=1),
            "sliding_rope_theta": bases[SLIDING] or told.need(_LOCAL, float, least=10),
        }
    return switches


def _sliding_layers(told: JsonObject, layers: int) -> tuple[int, ...]:
    kinds = told.many(_KINDS, str)
    if told.values.get(_KINDS) is None:
        every = told.need(_EVERY, int, least=1)
        kinds = [SLIDING if (layer + 1) % every else FULL for layer in range(layers)]
    told.require(len(kinds) == layers, _KINDS, f"a kind for each of num_hidden_{layers=}")
    return tuple(layer for layer in range(layers) if kinds[layer] == SLIDING)


def _base(told: JsonObject, kind: str) -> float | None:
    """The base of the rotary frequencies of a kind of blocks, in the new spelling."""
    rope = told.section("rope_parameters").section(kind)
    rope.require(rope.need("rope_type", str, "default") == "default", "rope_type", "'default'")
    return rope.get("rope_theta", float, least=10)


def _write(config: ModelConfig) -> dict[str, Any]:
    local, scores = config.sliding_rope_theta or _LOCAL_BASE, config.score_width
    scores = config.head_width if scores is None else scores
    bases = {FULL: config.rope_theta, SLIDING: local}
    return {
        "hidden_act": ...,
        "hidden_activation": "gelu_pytorch_tanh",
        _SCORES: int(scores) if scores == int(scores) else scores,
        _KINDS: [SLIDING if i in config.sliding_layers else FULL for i in range(config.layers)],
        "sliding_window": config.sliding_window,
        _LOCAL: local,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases.items()
        },
    }


GEMMA3 = FamilyFormat(
    name="gemma3_text",
    architecture="Gemma3ForCausalLM",
    assumed={
        "num_key_value_heads": 4,
        "head_dim": 256,
        _SCORES: 256,
        "tie_word_embeddings": True,
        "max_position_embeddings": 131_072,
        "sliding_window": 4096,
        _EVERY: 6,
        "rope_theta": 1_000_000.0,
        _LOCAL: _LOCAL_BASE,
    },
    read=_read,
    modules=MODULES
    | QUERY_KEY_NORMS
    | {
        "attention/output_norm": "post_attention_layernorm",
        "feed_forward_norm": "pre_feedforward_layernorm",
        "feed_forward/output_norm": "post_feedforward_layernorm",
    },
    write=_write,
    only={key: values for key, values in PLAIN.items() if key != "hidden_act"}
    | {
        "hidden_activation": ("gelu_pytorch_tanh",),
        "attn_logit_softcapping": (None,),
        "final_logit_softcapping": (None,),
        "use_bidirectional_attention": (False, None),
    },
    attention=(FULL, SLIDING),
)
