"""``config.json`` of Qwen2, Qwen3 and Llama, in the old and the new spelling, both ways."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import Any, get_args

from smf_jax.models.config import ComputeType, Family, ModelConfig, RopeScaling

_REQUIRED = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "hidden_width": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
}
_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def read_config(file: Path, dtype: ComputeType = "float32") -> ModelConfig:
    """Reads a ``config.json``, for computation in ``dtype``; the file's own is not heeded.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not JSON, another kind of model, or a feature that the decoder does not have.
    """
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist; give a Hugging Face checkpoint")
    try:
        return replace(parse_config(json.loads(file.read_bytes())), dtype=dtype)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not JSON: {error}; copy the file again") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def parse_config(values: Mapping[str, Any]) -> ModelConfig:
    """The configuration that the values of a ``config.json`` describe.

    What a file leaves out is what ``transformers`` assumes for the family: Qwen2 has biases on
    query, key and value, Qwen3 and Llama where ``attention_bias`` says so, and then on the output
    too; ``head_dim`` is ``hidden_size / num_attention_heads``, for Qwen3 128.
    """
    family = values.get("model_type", "")
    qwen2, llama = family == "qwen2", family == "llama"
    if family not in get_args(Family):
        raise ValueError(f"model_type={family!r} is not supported; choose of {get_args(Family)}")
    if absent := [key for key in _REQUIRED.values() if values.get(key) is None]:
        raise ValueError(f"the keys {absent} are missing; is this the file of a whole model?")
    _refuse_unsupported(values)
    sizes = {field: values[key] for field, key in _REQUIRED.items()}
    width, heads = sizes["width"], sizes["heads"]
    bias = bool(values.get("attention_bias", False))
    theta, scaling = _parse_rope(values)
    return ModelConfig(
        family=family,
        **sizes,
        key_value_heads=values.get("num_key_value_heads", None if llama else 32) or heads,
        head_width=values.get("head_dim") or (128 if family == "qwen3" else width // heads),
        rope_theta=theta,
        rope_scaling=scaling,
        norm_epsilon=values.get("rms_norm_eps", 1e-6),
        tied=bool(values.get("tie_word_embeddings", False)),
        attention_bias=qwen2 or bias,
        attention_output_bias=bias and not qwen2,
        feed_forward_bias=llama and bool(values.get("mlp_bias", False)),
        query_key_norm=family == "qwen3",
        max_positions=values.get("max_position_embeddings", 2048 if llama else 32_768),
    )


def config_values(config: ModelConfig) -> dict[str, Any]:
    """The values of a ``config.json``, in the spelling of old and new ``transformers`` alike.

    A ValueError tells of a memory in the model, or that its family has no such variant.
    """
    if config.memory is not None:
        raise ValueError(
            f"memories in layers {config.memory.layers} have no place in a {config.family} "
            "checkpoint; export the base without them, and the memory as a patch"
        )
    rope: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling is not None:
        scaling = zip(_LLAMA3, astuple(config.rope_scaling), strict=True)
        rope = {"rope_type": "llama3", **dict(scaling)}
    values = {
        "architectures": [f"{config.family.capitalize()}ForCausalLM"],
        "model_type": config.family,
        **{key: getattr(config, field) for field, key in _REQUIRED.items()},
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
    # What is written must read back as the same model.
    again = replace(parse_config(values), dtype=config.dtype, remat=config.remat)
    if config != again:
        pairs = ((f.name, getattr(config, f.name), getattr(again, f.name)) for f in fields(config))
        differing = ", ".join(f"{name}={here}" for name, here, there in pairs if here != there)
        raise ValueError(
            f"the family {config.family} has no variant with {differing}; export under another of "
            f"{get_args(Family)}"
        )
    return values


def _parse_rope(values: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Base and scaling, from ``rope_parameters`` or ``rope_theta`` and ``rope_scaling``."""
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    theta = rope.get("rope_theta") or values.get("rope_theta") or 10_000.0
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return float(theta), None
    if kind != "llama3":
        raise ValueError(f"rope_type={kind!r} is not supported; choose 'default' or 'llama3'")
    if absent := [name for name in _LLAMA3 if rope.get(name) is None]:
        raise ValueError(f"rope_type='llama3' needs the keys {absent}")
    return float(theta), RopeScaling(*(rope[name] for name in _LLAMA3))


def _refuse_unsupported(values: Mapping[str, Any]) -> None:
    """Features that would change the logits and that the decoder does not have."""
    rope: dict[str, Any] = {"partial_rotary_factor": 1.0} | (values.get("rope_parameters") or {})
    values = rope | dict(values)
    checks = {
        "hidden_act": values.get("hidden_act", "silu") not in ("silu", "swish"),
        "use_sliding_window": bool(values.get("use_sliding_window", False)),
        "layer_types": bool(set(values.get("layer_types") or ()) - {"full_attention"}),
        "partial_rotary_factor": values["partial_rotary_factor"] != 1.0,
        "quantization_config": values.get("quantization_config") is not None,
    }
    if refused := [f"{key}={values[key]!r}" for key, wrong in checks.items() if wrong]:
        raise ValueError(
            f"{', '.join(refused)} is not supported: the decoder has silu, full attention, whole "
            "rotations and unquantised weights; choose a model with these"
        )
