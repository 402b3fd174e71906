"""Parameters from tensors: exact where the type is, and as near as its steps where it is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from smf_jax.interop.gguf import file as gguf_file
from smf_jax.interop.gguf.config import read_config
from smf_jax.interop.gguf.file import open_gguf
from smf_jax.interop.gguf.weights import gguf_name, read_params
from smf_jax.models.config import ComputeType
from smf_jax.models.decoder import Decoder
from smf_jax.models.quantised import quantise_params
from smf_jax.params import flatten, unflatten
from tests.interop.gguf.files import (
    BIASED,
    GEMMA3,
    LLAMA,
    QWEN2,
    QWEN3,
    model_values,
    tensors_of,
    write_gguf,
)
from tests.models.tiny import random_params, random_tokens

CONFIGS = {"llama": LLAMA, "qwen2": QWEN2, "biased": BIASED, "qwen3": QWEN3, "gemma3": GEMMA3}


def read(path: Path, dtype: ComputeType = "float32"):
    file = open_gguf(path)
    config = read_config(file, dtype)
    return config, read_params(file, config)


def logits(config, params) -> np.ndarray:
    found: Any = Decoder(config).apply({"params": params}, random_tokens(config, (2, 48)))
    return np.asarray(found)


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


def test_every_parameter_comes_back_bit_for_bit(config, tmp_path):
    params = random_params(config)
    found_config, found = read(
        write_gguf(tmp_path / "a.gguf", model_values(config), tensors_of(config, params))
    )
    assert found_config == config
    jax.tree.map(np.testing.assert_array_equal, found, expected(config, params, Kind.F32))


def expected(config, params, kind):
    """The same parameters, rounded as the type rounds them."""
    rounded = {}
    for path, leaf in flatten(params).items():
        if config.norm_scale == "offset" and path.endswith("/scale"):
            leaf = (leaf + np.float32(1)) - np.float32(1)  # a file holds 1 + scale
        matrix = np.asarray(leaf.T if path.endswith("kernel") else leaf, order="C")
        if matrix.ndim > 1 and kind != Kind.F32:
            matrix = gguf.dequantize(gguf.quantize(matrix, kind), kind)
        rounded[path] = jnp.asarray(matrix.T if path.endswith("kernel") else matrix)
    return unflatten(rounded)


@pytest.mark.parametrize("precision", ["int8", "int4", "nf4"])
def test_quantised_anew_it_is_what_its_numbers_are(precision, tmp_path):
    """Also where rows are turned around on the way."""
    path = write_gguf(
        tmp_path / "a.gguf", model_values(LLAMA), tensors_of(LLAMA, random_params(LLAMA)), Kind.Q8_0
    )
    file = open_gguf(path)
    found = read_params(file, LLAMA, precision)
    of_numbers = quantise_params(precision, flatten(read_params(file, LLAMA)))
    jax.tree.map(np.testing.assert_array_equal, flatten(found), of_numbers)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q5_0", "Q5_1", "Q4_0", "Q4_1"])
def test_logits_are_those_of_the_rounded_parameters(kind, config, tmp_path):
    """Rows keep their bits whatever order they stand in, so the logits are the same."""
    params, kind = random_params(config), Kind[kind]
    values, tensors = model_values(config), tensors_of(config, params)
    path = write_gguf(tmp_path / "a.gguf", values, tensors, kind)
    assert open_gguf(path).tensors["blk.0.attn_q.weight"].kind == kind
    found = logits(*read(path))
    rounded = logits(config, expected(config, params, kind))
    np.testing.assert_array_equal(found, rounded)
    plain = logits(config, params)
    assert 1e-7 < np.abs(found - plain).max() < np.ptp(plain)


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_k_quants_are_what_the_package_makes_of_them(kind, tmp_path, monkeypatch):
    """Of any bytes; in parts too, and some rows alone."""
    kind = Kind[kind]
    size = gguf.GGML_QUANT_SIZES[kind][1]
    data = np.random.default_rng(0).integers(0, 256, (5, 2 * size), np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_tensor("matrix", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    whole = gguf.dequantize(data, kind)
    assert whole.shape == (5, 512)
    monkeypatch.setattr(gguf_file, "_CHUNK", 1024)
    found = open_gguf(tmp_path / "a.gguf").tensors["matrix"]
    np.testing.assert_array_equal(found.read("float32"), whole)
    np.testing.assert_array_equal(found.rows(1, 3), whole[1:3])


def test_rows_in_the_order_of_the_file_would_be_another_model(tmp_path):
    params = random_params(LLAMA)
    tensors = tensors_of(LLAMA, params)
    tensors["blk.0.attn_q.weight"] = np.asarray(
        params["layers_0"]["attention"]["query"]["kernel"]
    ).T
    found = read(write_gguf(tmp_path / "a.gguf", model_values(LLAMA), tensors))
    assert np.abs(logits(*found) - logits(LLAMA, params)).max() > 0.01


def test_leaves_are_of_the_dtype_that_is_asked_for(tmp_path, monkeypatch):
    """And the same whether a tensor is read at once or in parts."""
    path = write_gguf(
        tmp_path / "a.gguf", model_values(QWEN2), tensors_of(QWEN2, random_params(QWEN2)), Kind.Q8_0
    )
    whole = read(path)[1]
    monkeypatch.setattr(gguf_file, "_CHUNK", 200)
    jax.tree.map(np.testing.assert_array_equal, read(path)[1], whole)
    narrow = read(path, "bfloat16")[1]
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.bfloat16)), narrow, whole
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow)} == {jnp.dtype("bfloat16")}


def test_all_that_does_not_fit_is_told_at_once(tmp_path):
    tensors = tensors_of(LLAMA, random_params(LLAMA))
    tensors["blk.0.attn_q_norm.weight"] = np.ones(16, np.float32)
    tensors["blk.1.ffn_up.weight"] = tensors["blk.1.ffn_up.weight"][:-1]
    del tensors["output_norm.weight"]
    path = write_gguf(tmp_path / "a.gguf", model_values(LLAMA), tensors)
    told = (
        r"(?s)a.gguf do not fit its metadata, a llama of 2 blocks of width 64, 4 heads.*missing: "
    )
    told += (
        r"output_norm.weight \(64,\).*unexpected: blk.0.attn_q_norm.weight .*shape: blk.1.ffn_up"
    )
    with pytest.raises(ValueError, match=told):
        read(path)


def test_more_blocks_than_there_are_are_refused_before_they_are_laid_out(tmp_path):
    values = model_values(replace(LLAMA, layers=900))
    path = write_gguf(tmp_path / "a.gguf", values, tensors_of(LLAMA, random_params(LLAMA)))
    with pytest.raises(
        ValueError, match="llama.block_count=900: expected the 2 blocks of the tens"
    ):
        read(path)


def test_types_that_cannot_be_dequantised_are_named(tmp_path):
    tensors = tensors_of(LLAMA, random_params(LLAMA))
    name = gguf_name("layers_0/feed_forward/up/kernel")
    tensors[name] = tensors[name].astype(np.int8)
    path = write_gguf(tmp_path / "a.gguf", model_values(LLAMA), tensors)
    with pytest.raises(
        ValueError, match="type: blk.0.ffn_up.weight is I8, which the gguf package "
    ):
        read(path)
