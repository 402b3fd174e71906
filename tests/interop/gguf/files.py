"""GGUF files of tiny models, written by the ``gguf`` package as llama.cpp's conversion does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
from gguf import GGMLQuantizationType, TokenType
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from smf_jax.models.config import ModelConfig
from smf_jax.params import flatten
from tests.models.tiny import PLAIN, random_params

# Rows of 32 numbers at least, as most quantised types hold blocks of so many.
LLAMA = replace(
    PLAIN,
    width=64,
    hidden_width=96,
    heads=4,
    key_value_heads=2,
    head_width=16,
    rope_theta=1e5,
    tied=True,
    norm_epsilon=1e-5,
)
QWEN2 = replace(LLAMA, family="qwen2", attention_bias=True, tied=False, rope_theta=1e6)
BIASED = replace(LLAMA, attention_bias=True, attention_output_bias=True, feed_forward_bias=True)
QWEN3 = replace(LLAMA, family="qwen3", query_key_norm=True, rope_theta=1e6)
# Of seven blocks the sixth sees everything. Scores are scaled as the width of a head tells.
GEMMA3 = replace(
    LLAMA,
    family="gemma3_text",
    layers=7,
    query_key_norm=True,
    output_norms=True,
    norm_scale="offset",
    activation="gelu_tanh",
    scaled_embedding=True,
    rope_theta=1e6,
    sliding_layers=(0, 1, 2, 3, 4, 6),
    sliding_window=8,
    sliding_rope_theta=1e4,
    norm_epsilon=1e-6,
)
ARCHITECTURES = {"gemma3_text": "gemma3"}  # of other families their own names

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXTS = (
    "The cat sat on the mat in 1984, didn't it?",
    "  Two  spaces,\ttabs\n\nand lines\r\n of 1234567 numbers. ",
    "Größe, naïve é, e\u0301 composed? 東京は首都 😀 ½ ٣٤",
    "I'll say: WE'VE paid $3.50+tax (12%) <= 100_000!",
)
CHAT = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
CHAT += "{% endfor %}"
CHAT += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BLOCK = {
    "attention_norm/scale": "attn_norm.weight",
    "attention/query/kernel": "attn_q.weight",
    "attention/query/bias": "attn_q.bias",
    "attention/key/kernel": "attn_k.weight",
    "attention/key/bias": "attn_k.bias",
    "attention/value/kernel": "attn_v.weight",
    "attention/value/bias": "attn_v.bias",
    "attention/output/kernel": "attn_output.weight",
    "attention/output/bias": "attn_output.bias",
    "attention/query_norm/scale": "attn_q_norm.weight",
    "attention/key_norm/scale": "attn_k_norm.weight",
    "attention/output_norm/scale": "post_attention_norm.weight",
    "feed_forward/output_norm/scale": "post_ffw_norm.weight",
    "feed_forward_norm/scale": "ffn_norm.weight",
    "feed_forward/gate/kernel": "ffn_gate.weight",
    "feed_forward/gate/bias": "ffn_gate.bias",
    "feed_forward/up/kernel": "ffn_up.weight",
    "feed_forward/up/bias": "ffn_up.bias",
    "feed_forward/down/kernel": "ffn_down.weight",
    "feed_forward/down/bias": "ffn_down.bias",
}
_OUTER = {
    "embedder/embedding": "token_embd.weight",
    "final_norm/scale": "output_norm.weight",
    "head/kernel": "output.weight",
}


def _split(pattern: str) -> Any:
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), level])


def _words() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


# As the tokenizer.json of the models has them.
PRE_TOKENIZERS: dict[str, Callable[[], Any]] = {
    "gpt-2": _words,
    "smollm": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(True), _words()]),
    "qwen2": lambda: _split(_QWEN),
    "llama-bpe": lambda: _split(_QWEN.replace(r"\p{N}| ", r"\p{N}{1,3}| ")),
}


@cache
def source_tokenizer(pre: str = "smollm", first: bool = True) -> tokenizers.Tokenizer:
    """A tokenizer as a model's tokenizer.json has it; its special tokens come first or last."""
    backend = tokenizers.Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    backend.pre_tokenizer = PRE_TOKENIZERS[pre]()
    backend.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    special = [AddedToken(text, special=True, normalized=False) for text in SPECIAL]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special if first else [],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS * 3, trainer)
    backend.add_tokens(special)
    backend.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    return backend


def tokenizer_values(backend: tokenizers.Tokenizer, pre: str, padded: int = 0) -> dict[str, Any]:
    """The metadata of a tokenizer, with unused tokens up to a number."""
    added = backend.get_added_tokens_decoder()
    tokens = [backend.id_to_token(i) for i in range(backend.get_vocab_size())]
    types = [
        TokenType.NORMAL
        if i not in added
        else (TokenType.CONTROL if added[i].special else TokenType.USER_DEFINED)
        for i in range(len(tokens))
    ]
    unused = [f"[PAD{i}]" for i in range(len(tokens), padded)]
    merges = [" ".join(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*tokens, *unused],
        "tokenizer.ggml.token_type": [*map(int, types), *[int(TokenType.UNUSED)] * len(unused)],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": backend.token_to_id("<|im_start|>"),
        "tokenizer.ggml.eos_token_id": backend.token_to_id("<|im_end|>"),
        "tokenizer.ggml.unknown_token_id": backend.token_to_id("<|endoftext|>"),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT,
    }


def model_values(config: ModelConfig) -> dict[str, Any]:
    """The metadata of a model."""
    own = {
        "context_length": config.max_positions,
        "embedding_length": config.width,
        "block_count": config.layers,
        "feed_forward_length": config.hidden_width,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.key_value_heads,
        "attention.layer_norm_rms_epsilon": config.norm_epsilon,
        "rope.freq_base": config.rope_theta,
    }
    if config.family in ("qwen3", "gemma3_text"):
        own |= {"attention.key_length": config.head_width}
        own |= {"attention.value_length": config.head_width}
    else:
        own["rope.dimension_count"] = config.head_width
    if config.sliding_window is not None:
        own["attention.sliding_window"] = config.sliding_window
    architecture = ARCHITECTURES.get(config.family, config.family)
    values = {f"{architecture}.{key}": value for key, value in own.items()}
    return {"general.architecture": architecture, "general.license": "mit", **values}


def together(tensor: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a query or key projection as llama.cpp's conversion orders those of Llama."""
    halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def tensors_of(config: ModelConfig, params: Any) -> dict[str, np.ndarray]:
    """The tensors of a model by their name in the file."""
    found = {}
    for path, leaf in flatten(params).items():
        block, _, rest = path.partition("/")
        inside = block.startswith("layers_")
        name = f"blk.{block[7:]}.{_BLOCK[rest]}" if inside else _OUTER[path]
        tensor = np.asarray(leaf.T if path.endswith("kernel") else leaf, order="C")
        if config.norm_scale == "offset" and path.endswith("/scale"):
            tensor = tensor + np.float32(1)
        if config.family == "llama" and ".attn_q." in name:
            tensor = together(tensor, config.heads)
        if config.family == "llama" and ".attn_k." in name:
            tensor = together(tensor, config.key_value_heads)
        found[name] = tensor
    return found


def write_gguf(
    path: Path,
    values: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
) -> Path:
    """Writes a file; matrices in ``kind``, vectors in float32; a value of ``...`` is left out."""
    kept = {key: value for key, value in values.items() if value is not ...}
    writer = gguf.GGUFWriter(path, kept.pop("general.architecture", "none"))
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    add |= {str: writer.add_string, list: writer.add_array}
    for key, value in kept.items():
        add[type(value)](key, value)
    for name, tensor in tensors.items():
        if tensor.ndim < 2 or kind == GGMLQuantizationType.F32:
            writer.add_tensor(name, tensor)
        else:
            writer.add_tensor(name, gguf.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


ROWS = 416  # of an embedding that the tokenizers here leave some rows of unused


def write_model(
    path: Path, changes: Mapping[str, Any] | None = None, config: ModelConfig = LLAMA
) -> Path:
    """A file of a random model with a tokenizer, metadata by key changed or left out."""
    pre = "smollm" if config.family == "llama" else "qwen2"
    config = replace(config, vocabulary=ROWS)
    values = model_values(config) | tokenizer_values(source_tokenizer(pre), pre, ROWS)
    values |= changes or {}
    return write_gguf(path, values, tensors_of(config, random_params(config)))
