"""``config.json`` of Qwen2, Qwen3 and Llama, in the old and the new spelling, both ways."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

from smf_jax.models.config import ComputeType, Family, ModelConfig, RopeScaling

_ARCHITECTURES = {
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
}
_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
# What transformers assumes where a file leaves it out.
_POSITIONS = {"qwen2": 32_768, "qwen3": 32_768, "llama": 2048}
_KEY_VALUE_HEADS = {"qwen2": 32, "qwen3": 32, "llama": None}


def read_config(file: Path, dtype: ComputeType = "float32") -> ModelConfig:
    """Reads a ``config.json``.

    Args:
      file: the file.
      dtype: compute dtype of the resulting configuration; the file's own is not heeded.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not JSON, another kind of model, or a feature that the decoder does not have.
    """
    if not file.exists():
        raise FileNotFoundError(
            f"{file} does not exist; give the directory of a Hugging Face checkpoint"
        )
    try:
        values = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}; copy the file again") from error
    try:
        return replace(parse_config(values), dtype=dtype)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def parse_config(values: Mapping[str, Any]) -> ModelConfig:
    """The configuration that the values of a ``config.json`` describe.

    What a file leaves out is what ``transformers`` assumes for the family: Qwen2 has biases on
    query, key and value, Qwen3 and Llama where ``attention_bias`` says so, and then on the output
    too; ``head_dim`` is ``hidden_size / num_attention_heads``, for Qwen3 128.
    """
    family = values.get("model_type", "")
    if family not in get_args(Family):
        raise ValueError(
            f"model_type={family!r} is not supported; choose a model of {get_args(Family)}"
        )
    absent = [key for key in _REQUIRED if values.get(key) is None]
    if absent:
        raise ValueError(f"the keys {absent} are missing; is this the file of a whole model?")
    _refuse_unsupported(values)
    width, heads = values["hidden_size"], values["num_attention_heads"]
    bias = bool(values.get("attention_bias", False))
    theta, scaling = _parse_rope(values)
    return ModelConfig(
        family=family,
        vocabulary=values["vocab_size"],
        width=width,
        layers=values["num_hidden_layers"],
        heads=heads,
        key_value_heads=values.get("num_key_value_heads", _KEY_VALUE_HEADS[family]) or heads,
        head_width=values.get("head_dim") or (128 if family == "qwen3" else width // heads),
        hidden_width=values["intermediate_size"],
        rope_theta=theta,
        rope_scaling=scaling,
        norm_epsilon=values.get("rms_norm_eps", 1e-6),
        tied=bool(values.get("tie_word_embeddings", False)),
        attention_bias=True if family == "qwen2" else bias,
        attention_output_bias=False if family == "qwen2" else bias,
        feed_forward_bias=bool(values.get("mlp_bias", False)) if family == "llama" else False,
        query_key_norm=family == "qwen3",
        max_positions=values.get("max_position_embeddings", _POSITIONS[family]),
    )


def config_values(config: ModelConfig) -> dict[str, Any]:
    """The values of a ``config.json``, in the spelling of old and new ``transformers`` alike.

    Raises:
      ValueError: a memory stands in the model, or its family has no such variant.
    """
    if config.memory is not None:
        raise ValueError(
            f"memories in layers {config.memory.layers} have no place in a {config.family} "
            "checkpoint; export the base without them, and the memory as a patch"
        )
    rope = _rope_values(config)
    values = {
        "architectures": [_ARCHITECTURES[config.family]],
        "model_type": config.family,
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": config.hidden_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_value_heads,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scaling is None else rope,
        "rope_parameters": rope | {"rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tied,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.feed_forward_bias,
        "max_position_embeddings": config.max_positions,
        "dtype": config.dtype,
        "torch_dtype": config.dtype,
    }
    if config.family != "llama":
        values |= {"use_sliding_window": False, "sliding_window": None}
    if config.family == "qwen2" and config.head_width * config.heads == config.width:
        del values["head_dim"]
    _check_expressible(config, values)
    return values


def _check_expressible(config: ModelConfig, values: dict[str, Any]) -> None:
    """What is written must read back as the same model."""
    again = replace(parse_config(values), dtype=config.dtype, remat=config.remat)
    differing = [
        f"{field.name}={getattr(config, field.name)}"
        for field in fields(config)
        if getattr(config, field.name) != getattr(again, field.name)
    ]
    if differing:
        raise ValueError(
            f"the family {config.family} has no variant with {', '.join(differing)}; export under "
            f"another of {get_args(Family)}"
        )


def _parse_rope(values: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Base and scaling, from ``rope_parameters`` or ``rope_theta`` and ``rope_scaling``."""
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    theta = rope.get("rope_theta") or values.get("rope_theta") or 10_000.0
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return float(theta), None
    if kind != "llama3":
        raise ValueError(
            f"rope_type={kind!r} is not supported; choose a model with 'default' or 'llama3'"
        )
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    absent = [name for name in names if rope.get(name) is None]
    if absent:
        raise ValueError(f"rope_type='llama3' needs the keys {absent}")
    return float(theta), RopeScaling(*(rope[name] for name in names))


def _rope_values(config: ModelConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    if scaling is None:
        return {"rope_type": "default"}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_frequency_factor,
        "high_freq_factor": scaling.high_frequency_factor,
        "original_max_position_embeddings": scaling.original_max_positions,
    }


def _refuse_unsupported(values: Mapping[str, Any]) -> None:
    """Features that would change the logits and that the decoder does not have."""
    layer_types = set(values.get("layer_types") or ()) - {"full_attention"}
    rope = values.get("rope_parameters") or {}
    values = {"partial_rotary_factor": rope.get("partial_rotary_factor", 1.0)} | dict(values)
    checks = {
        "hidden_act": values.get("hidden_act", "silu") not in ("silu", "swish"),
        "use_sliding_window": bool(values.get("use_sliding_window", False)),
        "layer_types": bool(layer_types),
        "partial_rotary_factor": values["partial_rotary_factor"] != 1.0,
        "quantization_config": values.get("quantization_config") is not None,
    }
    refused = [f"{key}={values[key]!r}" for key, wrong in checks.items() if wrong]
    if refused:
        raise ValueError(
            f"{', '.join(refused)} is not supported: the decoder has silu, full attention, whole "
            "rotations and unquantised weights; choose a model with these"
        )
