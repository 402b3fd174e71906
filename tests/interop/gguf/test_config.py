"""Configurations from metadata: the model that was written, or one clear refusal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from smf_jax.interop.gguf.config import read_config
from smf_jax.interop.gguf.file import open_gguf
from smf_jax.models.attention import rotary_frequencies
from smf_jax.models.config import ModelConfig, RopeScaling
from tests.interop.gguf.files import (
    ARCHITECTURES,
    BIASED,
    GEMMA3,
    LLAMA,
    QWEN2,
    QWEN3,
    model_values,
    tensors_of,
    write_gguf,
)
from tests.models.tiny import random_params


@pytest.fixture
def read(tmp_path):
    def reads(config: ModelConfig = LLAMA, extra=None, **changes) -> ModelConfig:
        values = model_values(config)
        architecture = ARCHITECTURES.get(config.family, config.family)
        values |= {f"{architecture}.{key}": value for key, value in changes.items()}
        tensors = tensors_of(config, random_params(config)) | (extra or {})
        return read_config(open_gguf(write_gguf(tmp_path / "a.gguf", values, tensors)))

    return reads


@pytest.mark.parametrize(
    "config",
    [LLAMA, QWEN2, BIASED, QWEN3, GEMMA3],
    ids=["llama", "qwen2", "biased", "qwen3", "gemma3"],
)
def test_the_configuration_comes_back(read, config):
    assert read(config) == config


def test_what_is_left_out_is_what_llama_cpp_assumes(read):
    left = {"rope.dimension_count": ..., "rope.freq_base": ..., "attention.head_count_kv": ...}
    config = replace(LLAMA, key_value_heads=4, rope_theta=10_000.0)
    assert read(config, **left) == config
    assert read(LLAMA, **{"expert_count": 0, "rope.scaling.type": "none"}) == LLAMA
    wide = replace(LLAMA, head_width=32)
    told = {"attention.key_length": 32, "attention.value_length": 32}
    assert read(wide, **told) == wide


def test_what_files_of_gemma_3_leave_out(read):
    assert read(GEMMA3, **{"rope.freq_base": ...}) == GEMMA3
    told = {"rope.freq_base_swa": 2e4, "attention.sliding_window_pattern": 6}
    assert read(GEMMA3, **told) == replace(GEMMA3, sliding_rope_theta=2e4)
    whole = replace(GEMMA3, sliding_layers=(), sliding_window=None, sliding_rope_theta=None)
    assert read(whole) == whole


def test_scores_of_gemma_3_27b_are_scaled_by_its_width(tmp_path):
    """As llama.cpp has it, which knows the model by its number of blocks."""
    sliding = tuple(i for i in range(62) if i % 6 < 5)
    config = replace(GEMMA3, layers=62, score_width=16.0, sliding_layers=sliding)
    config = replace(config, head_width=8)
    embedding = {"token_embd.weight": np.zeros((40, 64), np.float32)}
    path = write_gguf(tmp_path / "a.gguf", model_values(config), embedding)
    assert read_config(open_gguf(path)) == config


def test_what_gemma_3_does_not_do_is_refused(read):
    for key, value in {
        "attention.sliding_window_pattern": 2,
        "final_logit_softcapping": 30.0,
    }.items():
        with pytest.raises(ValueError, match=rf"gemma3.{key}={value}: expected"):
            read(GEMMA3, **{key: value})


REFUSED = {
    "block_count": (..., r"llama.block_count=\(absent\): expected a whole number"),
    "embedding_length": ("64", "llama.embedding_length='64': expected a whole number from 1"),
    "attention.head_count": ([4, 4], r"llama.attention.head_count=\[4, 4\]: expected a whole"),
    "attention.head_count_kv": (3, "llama.attention.head_count_kv=3: expected a divisor of att"),
    "attention.layer_norm_rms_epsilon": (..., "llama.attention.layer_norm_rms_epsilon=.absent.: "),
    "attention.layer_norm_rms_epsilon ": (0.0, "llama.attention.layer_norm_rms_epsilon=0.0: exp"),
    "rope.dimension_count": (8, "llama.rope.dimension_count=8: expected 16, the width of a head"),
    "attention.value_length": (8, "llama.attention.value_length=8: expected 16, the width"),
    "rope.freq_base": (float("nan"), "llama.rope.freq_base=nan: expected a number from 10"),
    "rope.scaling.type": ("yarn", "llama.rope.scaling.type='yarn': expected no such key, as"),
    "rope.scaling.factor": (4.0, "llama.rope.scaling.factor=4.0: expected no such key, as"),
    "expert_count": (8, "llama.expert_count=8: expected no such key, as the decoder"),
    "attention.sliding_window": (512, "llama.attention.sliding_window=512: expected no such"),
    "context_length": (0, "llama.context_length=0: expected a whole number from 1"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_malformed_and_unsupported_values_are_named(read, key):
    value, message = REFUSED[key]
    with pytest.raises(ValueError, match=f"a.gguf: {message}"):
        read(**{key.strip(): value})


def test_other_architectures_and_halves_of_models_are_refused(tmp_path):
    tensors = tensors_of(LLAMA, random_params(LLAMA))
    values = model_values(LLAMA)
    other = write_gguf(tmp_path / "a.gguf", values | {"general.architecture": "mamba"}, tensors)
    told = "a.gguf: general.architecture='mamba': expected one of llama, qwen2, qwen3, gemma3; give"
    with pytest.raises(ValueError, match=told):
        read_config(open_gguf(other))
    del tensors["token_embd.weight"]
    half = write_gguf(tmp_path / "b.gguf", values, tensors)
    with pytest.raises(ValueError, match="b.gguf: the tensor token_embd.weight is missing; is thi"):
        read_config(open_gguf(half))


def divisors(config: ModelConfig, scaling: RopeScaling) -> np.ndarray:
    """What llama.cpp's conversion writes for Llama 3, in the words of its release."""
    found = []
    for frequency in rotary_frequencies(config):
        wave = 2 * np.pi / frequency
        if wave < scaling.original_max_positions / scaling.high_frequency_factor:
            found.append(1.0)
        elif wave > scaling.original_max_positions / scaling.low_frequency_factor:
            found.append(scaling.factor)
        else:
            smooth = scaling.original_max_positions / wave - scaling.low_frequency_factor
            smooth /= scaling.high_frequency_factor - scaling.low_frequency_factor
            found.append(1 / ((1 - smooth) / scaling.factor + smooth))
    return np.array(found, np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_scaling_of_llama_3_is_read_from_its_divisors(read, factor):
    config = replace(LLAMA, head_width=64, rope_theta=500_000.0)
    scaling = RopeScaling(factor, 1.0, 4.0, 8192)
    factors = divisors(config, scaling)
    assert ((factors > 1) & (factors < factor)).any()
    told = {"attention.key_length": 64}
    found = read(config, {"rope_freqs.weight": factors}, **told)
    assert found == replace(config, rope_scaling=scaling)
    plain = read(config, {"rope_freqs.weight": np.ones_like(factors)}, **told)
    assert plain == config


def test_other_scalings_are_refused(read):
    factors = np.full(LLAMA.head_width // 2, 4.0, np.float32)
    with pytest.raises(ValueError, match="rope_freqs.weight up to 4 is no scaling of Llama 3"):
        read(LLAMA, {"rope_freqs.weight": factors})
    with pytest.raises(ValueError, match=r"rope_freqs.weight: expected \(8,\) numbers from 1 on"):
        read(LLAMA, {"rope_freqs.weight": factors[:-1]})
