"""Writes a checkpoint of a known model's exact shape with random weights, for trying sizes out.

``python -m benchmarks.random_checkpoint --shape=qwen2.5-0.5b --out=DIR`` needs neither network nor
``transformers``, and holds one file of weights at a time: 0.7 GB for a model of 1 GB.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.models import SHAPES, abstract_leaves, random_leaf
from experiments.cli import run
from smf_jax.continual.flags import flag
from smf_jax.data.bpe_files import read_qwen
from smf_jax.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from smf_jax.data.world.neutral import neutral_sentences
from smf_jax.errors import blame_flag, require_least, require_writable
from smf_jax.interop.huggingface.checkpoint import write_huggingface
from smf_jax.interop.huggingface.files import new_directory
from smf_jax.params import count_parameters
from smf_jax.progress import say

DTYPES = ("bfloat16", "float32", "float16")


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

    def check(self) -> None:
        """Refuses what could only fail later, naming the flag."""
        if not self.out:
            raise ValueError("--out is empty; name the directory to make")
        for name, known in (("shape", SHAPES), ("dtype", DTYPES)):
            if getattr(self, name) not in known:
                value = getattr(self, name)
                raise ValueError(f"--{name}={value} is unknown; choose from {', '.join(known)}")
        require_least(self, 1, "shard_mb")
        require_least(self, 0, "seed")
        require_writable(self.out, "out")


def read_tokenizer(directory: str) -> Tokenizer:
    """The tokenizer of ``--tokenizer``; by default 1,000 tokens of the built-in sentences."""
    if not directory:
        return train_tokenizer(neutral_sentences(2000, random.Random(0)), 1000)
    with blame_flag(f"--tokenizer={directory}: "):
        whole = (Path(directory) / "tokenizer.json").is_file()
        return load_tokenizer(directory) if whole else read_qwen(directory)


def main(flags: RandomFlags) -> int:
    """Makes the checkpoint at ``--out``."""
    flags.check()
    tokenizer = read_tokenizer(flags.tokenizer)
    config = replace(SHAPES[flags.shape], dtype=flags.dtype)
    if tokenizer.size > config.vocabulary:
        raise ValueError(
            f"--tokenizer={flags.tokenizer} has {tokenizer.size} tokens, --shape={flags.shape} "
            f"embeds {config.vocabulary}; choose another of the two"
        )
    params = abstract_leaves(config, flags.dtype)
    with blame_flag("--out: "), new_directory(Path(flags.out)) as partial:
        write_huggingface(
            partial,
            config,
            params,
            lambda path: random_leaf(path, params[path], flags.seed),
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
