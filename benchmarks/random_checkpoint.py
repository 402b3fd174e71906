"""Writes a checkpoint of a known model's exact shape with random weights, for trying sizes out.

``python -m benchmarks.random_checkpoint --shape=qwen2.5-0.5b --out=DIR`` needs neither network nor
``transformers``, and holds one file of weights at a time: 0.7 GB for a model of 1 GB.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cli import run
from smf_jax.checkpoints.files import whole_directory
from smf_jax.continual.flags import flag
from smf_jax.data.bpe_files import read_qwen
from smf_jax.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from smf_jax.data.world.neutral import neutral_sentences
from smf_jax.errors import blame_flag, require_least, require_writable
from smf_jax.interop.huggingface.checkpoint import write_huggingface
from smf_jax.models.config import ModelConfig, RopeScaling
from smf_jax.models.decoder import abstract_params
from smf_jax.params import count_parameters, flatten
from smf_jax.progress import say

SHAPES = {
    "qwen2.5-0.5b": ModelConfig(
        family="qwen2",
        vocabulary=151_936,
        width=896,
        layers=24,
        heads=14,
        key_value_heads=2,
        head_width=64,
        hidden_width=4864,
        rope_theta=1e6,
        tied=True,
        attention_bias=True,
        max_positions=32_768,
    ),
    "qwen3-0.6b": ModelConfig(
        family="qwen3",
        vocabulary=151_936,
        width=1024,
        layers=28,
        heads=16,
        key_value_heads=8,
        head_width=128,
        hidden_width=3072,
        rope_theta=1e6,
        tied=True,
        query_key_norm=True,
        max_positions=40_960,
    ),
    "llama3.2-1b": ModelConfig(
        family="llama",
        vocabulary=128_256,
        width=2048,
        layers=16,
        heads=32,
        key_value_heads=8,
        head_width=64,
        hidden_width=8192,
        rope_theta=500_000.0,
        rope_scaling=RopeScaling(32.0, 1.0, 4.0, 8192),
        norm_epsilon=1e-5,
        tied=True,
        max_positions=131_072,
    ),
    # Four blocks of Qwen2.5-0.5B at an eighth of the width: the same code in seconds.
    "tiny": ModelConfig(
        family="qwen2",
        vocabulary=2048,
        width=112,
        layers=4,
        heads=14,
        key_value_heads=2,
        head_width=8,
        hidden_width=608,
        rope_theta=1e6,
        tied=True,
        attention_bias=True,
        max_positions=512,
    ),
}
DTYPES = ("bfloat16", "float32", "float16")
_BLOCK = 1 << 20  # numbers drawn at a time
_STD = 0.02


@dataclass(frozen=True)
class RandomFlags:
    """Flags of ``benchmarks.random_checkpoint``."""

    out: str = flag("Output", "", "directory of the checkpoint to make; must not exist")
    shape: str = flag("Model", "qwen2.5-0.5b", f"any of {', '.join(SHAPES)}")
    dtype: str = flag("Model", "bfloat16", f"of the weights: {', '.join(DTYPES)}")
    seed: int = flag("Model", 0, "seed of the weights")
    tokenizer: str = flag(
        "Model",
        "",
        "directory of its tokenizer: tokenizer.json, or Qwen's vocab.json and merges.txt (also "
        ".xz); empty: a small one trained on the built-in sentences",
    )
    shard_mb: int = flag("Output", 300, "megabytes of weights in a file")


def random_leaf(path: str, shape: tuple[int, ...], dtype: jnp.dtype, seed: int) -> np.ndarray:
    """A leaf drawn block by block: scales near 1, everything else near 0, std 0.02."""
    rng = np.random.default_rng([seed, zlib.crc32(path.encode())])
    leaf = np.empty(shape, dtype)
    flat, mean = leaf.reshape(-1), np.float32(path.endswith("/scale"))
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        block[:] = mean + np.float32(_STD) * rng.standard_normal(block.size, np.float32)
    return leaf


def small_tokenizer() -> Tokenizer:
    """A byte-level BPE of 1,000 tokens on the built-in sentences."""
    return train_tokenizer(neutral_sentences(2000, random.Random(0)), 1000)


def read_tokenizer(directory: str) -> Tokenizer:
    """The tokenizer of ``--tokenizer``."""
    if not directory:
        return small_tokenizer()
    with blame_flag(f"--tokenizer={directory}: "):
        whole = (Path(directory) / "tokenizer.json").is_file()
        return load_tokenizer(directory) if whole else read_qwen(directory)


def main(flags: RandomFlags) -> int:
    """Makes the checkpoint at ``--out``."""
    if not flags.out:
        raise ValueError("--out is empty; name the directory to make")
    if flags.shape not in SHAPES:
        raise ValueError(f"--shape={flags.shape} is unknown; choose from {', '.join(SHAPES)}")
    if flags.dtype not in DTYPES:
        raise ValueError(f"--dtype={flags.dtype} is unknown; choose from {', '.join(DTYPES)}")
    require_least(flags, 1, "shard_mb")
    require_least(flags, 0, "seed")
    require_writable(flags.out, "out")
    tokenizer = read_tokenizer(flags.tokenizer)
    config = replace(SHAPES[flags.shape], dtype=flags.dtype)
    if tokenizer.size > config.vocabulary:
        raise ValueError(
            f"--tokenizer={flags.tokenizer} has {tokenizer.size} tokens, --shape={flags.shape} "
            f"embeds {config.vocabulary}; choose another of the two"
        )
    dtype = jnp.dtype(flags.dtype)
    params = {
        path: jax.ShapeDtypeStruct(leaf.shape, dtype)
        for path, leaf in flatten(abstract_params(config)).items()
    }
    with blame_flag("--out: "), whole_directory(flags.out) as partial:
        write_huggingface(
            partial,
            config,
            params,
            lambda path: random_leaf(path, params[path].shape, dtype, flags.seed),
            flags.shard_mb * 10**6,
        )
        tokenizer.save(partial)
    say(f"{flags.out}: {count_parameters(params):,} random parameters, {flags.dtype}")
    return 0


if __name__ == "__main__":
    run(
        main,
        RandomFlags,
        "benchmarks.random_checkpoint",
        "write a checkpoint of a known model's exact shape with random weights",
        "python -m benchmarks.random_checkpoint --shape=qwen2.5-0.5b --out=/tmp/qwen_random",
    )
