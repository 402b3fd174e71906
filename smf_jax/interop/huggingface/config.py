"""``config.json`` of all families, in the old and the new spelling, both ways."""

from __future__ import annotations

from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import Any, get_args

from smf_jax.interop.huggingface.families import FAMILIES
from smf_jax.models.config import ComputeType, Family, ModelConfig, RopeScaling
from smf_jax.typed_json import JsonObject, read_json

_REQUIRED = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "hidden_width": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
}
# What is taken for a size, and not for damage.
_LAYERS, _SIZE = {"least": 1, "most": 1000}, {"least": 1, "most": 2**24}
_THETA = {"least": 10, "most": 1e11}
_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def read_config(file: Path, dtype: ComputeType = "float32") -> ModelConfig:
    """Reads a ``config.json``, for computation in ``dtype``; the file's own is not heeded.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not JSON, another kind of model, or a feature that the decoder does not have.
    """
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist; give a Hugging Face checkpoint")
    return replace(parse_config(read_json(file)), dtype=dtype)


def parse_config(told: JsonObject) -> ModelConfig:
    """The configuration that a ``config.json`` describes; a ValueError names key and value.

    What a file leaves out is what ``transformers`` assumes for the family.
    """
    name = told.values.get("model_type", "")
    if not isinstance(name, str) or name not in FAMILIES:
        raise told.error(f"model_type={name!r} is not supported; choose of {get_args(Family)}")
    if absent := [key for key in _REQUIRED.values() if told.values.get(key) is None]:
        raise told.error(f"the keys {absent} are missing; is this the file of a whole model?")
    family = FAMILIES[name]
    family.check(told)
    told = family.complete(told)
    sizes: dict[str, Any] = {
        name: told.need(key, int, **(_LAYERS if name == "layers" else _SIZE))
        for name, key in _REQUIRED.items()
    }
    width, heads = sizes["width"], sizes["heads"]
    shared = told.get("num_key_value_heads", int, **_SIZE) or heads
    told.require(heads % shared == 0, "num_key_value_heads", f"a divisor of num_attention_{heads=}")
    own = told.get("head_dim", int, **_SIZE) or family.assumed.get("head_dim")
    shares = f"a multiple of num_attention_{heads=}, where head_dim is not given"
    told.require(bool(own) or width % heads == 0, "hidden_size", shares)
    head_width = own or width // heads
    told.require(head_width % 2 == 0, "head_dim", f"an even number, and no {head_width}")
    assumed = family.assumed.get("rope_theta", 10_000.0)
    new, old = told.section("rope_parameters"), told.section("rope_scaling")
    rope = old if old.values else new  # where both are there, transformers too takes this one
    common = {
        "key_value_heads": shared,
        "head_width": head_width,
        "rope_theta": _theta(rope) or _theta(new) or _theta(told) or assumed,
        "rope_scaling": _parse_scaling(rope),
        "norm_epsilon": told.need("rms_norm_eps", float, 1e-6, least=1e-30, most=1),
        "tied": told.get("tie_word_embeddings", bool) or False,
        "max_positions": told.need("max_position_embeddings", int, least=1),
    }
    switches = family.read(told, sizes["layers"])
    return ModelConfig(family=family.name, **sizes | common | switches)


def config_values(config: ModelConfig) -> dict[str, Any]:
    """The values of a ``config.json``, in the spelling of old and new ``transformers`` alike.

    A ValueError tells of a memory in the model, of quantised matrices, or that its family has no
    such variant.
    """
    if config.memory is not None:
        raise ValueError(
            f"memories in layers {config.memory.layers} have no place in a {config.family} "
            "checkpoint; export the base without them, and the memory as a patch"
        )
    if config.precision is not None:
        raise ValueError(
            f"matrices held in {config.precision} have no place in a {config.family} checkpoint, "
            "and patches fit the base that they were trained on alone; to export a model, train on "
            "one in floats"
        )
    family = FAMILIES[config.family]
    rope: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling is not None:
        scaling = zip(_LLAMA3, astuple(config.rope_scaling), strict=True)
        rope = {"rope_type": "llama3", **dict(scaling)}
    values = {
        "architectures": [family.architecture],
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
    values |= family.write(config)
    values = {key: value for key, value in values.items() if value is not ...}
    # What is written must read back as the same model.
    again = replace(parse_config(JsonObject(values)), dtype=config.dtype, remat=config.remat)
    if config != again:
        pairs = ((f.name, getattr(config, f.name), getattr(again, f.name)) for f in fields(config))
        differing = ", ".join(f"{name}={here}" for name, here, there in pairs if here != there)
        raise ValueError(
            f"the family {config.family} has no variant with {differing}; export under another of "
            f"{get_args(Family)}"
        )
    return values


def _theta(section: JsonObject) -> float | None:
    """The base of the rotations, if this part of the file tells it."""
    return section.get("rope_theta", float, **_THETA)


def _parse_scaling(rope: JsonObject) -> RopeScaling | None:
    """The scaling in ``rope_parameters`` or ``rope_scaling``."""
    kind = rope.values.get("rope_type", rope.values.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise rope.error(f"rope_type={kind!r} is not supported; choose 'default' or 'llama3'")
    if absent := [name for name in _LLAMA3 if rope.values.get(name) is None]:
        raise rope.error(f"rope_type='llama3' needs the keys {absent}")
    *factors, positions = _LLAMA3
    factor, low, high = (rope.need(name, float, least=1e-6) for name in factors)
    rope.require(high > low, "high_freq_factor", f"more than low_freq_factor={low}")
    return RopeScaling(factor, low, high, rope.need(positions, int, least=1))
