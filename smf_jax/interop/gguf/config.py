"""The configuration of a decoder from the metadata of a GGUF file."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from smf_jax.interop.gguf.file import GgufFile
from smf_jax.models.attention import rotary_frequencies
from smf_jax.models.config import ComputeType, Family, ModelConfig, RopeScaling
from smf_jax.typed_json import JsonObject

# By ``general.architecture``, the family here.
FAMILIES: dict[str, Family] = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3": "gemma3_text",
}
EMBEDDING, HEAD, ROPE_FACTORS = "token_embd.weight", "output.weight", "rope_freqs.weight"
_ARCHITECTURE = "general.architecture"
_SIZES = {
    "width": "embedding_length",
    "hidden_width": "feed_forward_length",
    "layers": "block_count",
    "heads": "attention.head_count",
}
# What is taken for a size, and not for damage.
_LAYERS, _SIZE = {"least": 1, "most": 1000}, {"least": 1, "most": 2**24}
_WINDOW, _PATTERN = "attention.sliding_window", "attention.sliding_window_pattern"
# Features of llama.cpp that change the logits and that the decoder does not have: what a key may
# say nevertheless. ``None`` is its absence.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "expert_count": (None, 0),
    _WINDOW: (None, 0),
    "attention.causal": (None, True),
    "attention.clamp_kqv": (None, 0),
    "attention.scale": (None, 0),
    "rope.scaling.type": (None, "none"),
    "rope.scaling.factor": (None, 0, 1),
    "rope.scale_linear": (None, 0, 1),
    "attn_logit_softcapping": (None, 0),
    "final_logit_softcapping": (None, 0),
    "logit_scale": (None, 0, 1),
    "embedding_scale": (None, 0, 1),
    "residual_scale": (None, 0, 1),
}
_READ_BY: dict[Family, tuple[str, ...]] = {"gemma3_text": (_WINDOW,)}
# What files of Gemma 3 leave out, as llama.cpp has it: every sixth block sees everything, the
# others turn by a base of their own, and scores of the 27B model are scaled otherwise.
_EVERY, _LOCAL_BASE, _WIDE_LAYERS = 6, 10_000.0, 62
_BASES = {"gemma3_text": 1_000_000.0}
# Llama 3 as published: low and high frequency factor, and the context it was first trained with.
_LLAMA3 = (1.0, 4.0, 8192)


def read_config(file: GgufFile, dtype: ComputeType = "float32") -> ModelConfig:
    """The configuration that the metadata and the list of tensors describe.

    The vocabulary is the embedding's rows; the head is tied where there is no tensor of its own,
    and projections have biases where the first block has them.

    Raises:
      ValueError: another architecture, a key that is missing or malformed, or a feature that the
        decoder does not have; it names file, key and value.
    """
    architecture = file.told.need(_ARCHITECTURE, str)
    known = f"one of {', '.join(FAMILIES)}; give a model of these, or its Hugging Face directory"
    file.told.require(architecture in FAMILIES, _ARCHITECTURE, known)
    family, told = FAMILIES[architecture], file.section(f"{architecture}.")
    lacking = "no such key, as the decoder has nothing of the kind; choose a model without it"
    for key, fine in _NEUTRAL.items():
        if key not in _READ_BY.get(family, ()):
            told.require(told.values.get(key) in fine, key, lacking)
    sizes: dict[str, Any] = {
        name: told.need(key, int, **(_LAYERS if name == "layers" else _SIZE))
        for name, key in _SIZES.items()
    }
    heads = sizes["heads"]
    shared = told.get("attention.head_count_kv", int, **_SIZE) or heads
    divisor = f"a divisor of attention.head_count={heads}"
    told.require(heads % shared == 0, "attention.head_count_kv", divisor)
    if EMBEDDING not in file.tensors:
        raise file.told.error(f"the tensor {EMBEDDING} is missing; is this a whole model?")
    has = lambda module: f"blk.0.{module}.bias" in file.tensors  # noqa: E731
    config = ModelConfig(
        family=family,
        vocabulary=file.tensors[EMBEDDING].shape[0],
        **sizes,
        key_value_heads=shared,
        head_width=_head_width(told, sizes["width"], heads),
        rope_theta=_short(
            told.get("rope.freq_base", float, least=10, most=1e11) or _BASES.get(family, 10_000.0)
        ),
        norm_epsilon=_short(
            told.need("attention.layer_norm_rms_epsilon", float, least=1e-30, most=1)
        ),
        tied=HEAD not in file.tensors,
        attention_bias=has("attn_q"),
        attention_output_bias=has("attn_output"),
        feed_forward_bias=has("ffn_down"),
        max_positions=told.need("context_length", int, least=1),
        dtype=dtype,
    )
    if family in _SWITCHES:
        config = replace(config, **_SWITCHES[family](told, config))
    return _with_scaling(file, told, config)


def _qwen3(told: JsonObject, config: ModelConfig) -> dict[str, Any]:
    """What tells Qwen3: queries and keys are normalised per head."""
    del told, config
    return {"query_key_norm": True}


def _gemma3(told: JsonObject, config: ModelConfig) -> dict[str, Any]:
    """What tells Gemma 3, see `smf_jax.interop.huggingface.families.gemma3`."""
    fine = f"{_EVERY} or no such key"
    told.require(told.values.get(_PATTERN) in (None, _EVERY), _PATTERN, fine)
    switches: dict[str, Any] = {
        "query_key_norm": True,
        "output_norms": True,
        "norm_scale": "offset",
        "activation": "gelu_tanh",
        "scaled_embedding": True,
    }
    if config.layers == _WIDE_LAYERS:
        switches["score_width"] = config.width / config.heads
    if window := told.get(_WINDOW, int, least=0):
        base = told.get("rope.freq_base_swa", float, least=10, most=1e11)
        sliding = tuple(i for i in range(config.layers) if (i + 1) % _EVERY)
        switches |= {
            "sliding_layers": sliding,
            "sliding_window": window if sliding else None,
            "sliding_rope_theta": _short(base or _LOCAL_BASE) if sliding else None,
        }
    return switches


_SWITCHES = {"qwen3": _qwen3, "gemma3_text": _gemma3}


def _head_width(told: JsonObject, width: int, heads: int) -> int:
    """The width of a head, all of which is rotated, and which keys and values have alike."""
    shares = f"a multiple of attention.head_count={heads}, where attention.key_length is absent"
    own = told.get("attention.key_length", int, **_SIZE)
    told.require(bool(own) or width % heads == 0, "embedding_length", shares)
    found = own or width // heads
    for key in ("attention.value_length", "rope.dimension_count"):
        given = told.get(key, int)
        told.require(given in (None, found), key, f"{found}, the width of a head")
    told.require(found % 2 == 0, "attention.key_length", f"an even width of a head, and no {found}")
    return found


def _with_scaling(file: GgufFile, told: JsonObject, config: ModelConfig) -> ModelConfig:
    """The configuration with Llama 3's scaling, where a tensor divides the frequencies by it.

    The tensor holds a divisor for each frequency. It does not tell by which constants it was made:
    those that Llama 3 was published with are tried, and have to give the same divisors.
    """
    if ROPE_FACTORS not in file.tensors:
        return config
    factors = file.tensors[ROPE_FACTORS].read("float32")
    shape = (config.head_width // 2,)
    if factors.shape != shape or not np.isfinite(factors).all() or factors.min() < 1:
        raise file.told.error(f"{ROPE_FACTORS}: expected {shape} numbers from 1 on; convert again")
    if factors.max() == 1:
        return config
    low, high, context = _LLAMA3
    context = told.get("rope.scaling.original_context_length", int, least=1) or context
    scaling = RopeScaling(_short(float(factors.max())), low, high, context)
    found = replace(config, rope_scaling=scaling)
    divided = rotary_frequencies(config) / factors
    if not np.allclose(divided, rotary_frequencies(found), rtol=1e-4, atol=0):
        raise file.told.error(
            f"{ROPE_FACTORS} up to {factors.max():g} is no scaling of Llama 3 ({low:g}, {high:g}, "
            f"{context}), the only one that is read; use the model's Hugging Face directory"
        )
    return found


def _short(value: float) -> float:
    """The shortest number that float32 holds as this one: 1e-05 and no 9.999999747378752e-06."""
    return float(str(np.float32(value))) if math.isfinite(value) else value
