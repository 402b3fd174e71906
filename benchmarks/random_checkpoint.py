"""Writes a checkpoint of a known model's exact shape with random weights, for trying sizes out.

``python -m benchmarks.random_checkpoint --shape=qwen2.5-0.5b --out=DIR`` needs neither network nor
``transformers``, and holds one file of weights at a time: 0.7 GB for a model of 1 GB.
"""

import random
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.models import SHAPES, abstract_leaves, random_leaf
from experiments.cli import run
from smf_jax.checkpoints.files import whole_directory
from smf_jax.configuration import SEED, Configuration, PathText, setting
from smf_jax.data.bpe_files import read_qwen
from smf_jax.data.tokenizer import load_tokenizer, train_tokenizer
from smf_jax.data.world.neutral import neutral_sentences
from smf_jax.errors import blame_flag, require_writable
from smf_jax.interop.huggingface.checkpoint import write_huggingface
from smf_jax.params import count_parameters
from smf_jax.paths import as_path
from smf_jax.progress import say

Dtype = Literal["bfloat16", "float32", "float16"]
_TOKENIZER = (
    "directory of its tokenizer: tokenizer.json, or Qwen's vocab.json and merges.txt (also .xz); "
    "empty: a small one trained on the built-in sentences"
)


@dataclass(frozen=True)
class RandomConfig(Configuration):
    """What ``benchmarks.random_checkpoint`` is told."""

    out: PathText = setting(
        "", "directory of the checkpoint to make; must not exist", heading="Output"
    )
    shape: str = setting("qwen2.5-0.5b", f"any of {', '.join(SHAPES)}", heading="Model")
    dtype: Dtype = setting("bfloat16", "of the weights", heading="Model")
    seed: int = setting(0, "seed of the weights", heading="Model", least=0, most=SEED)
    tokenizer: PathText = setting("", _TOKENIZER, heading="Model")
    shard_mb: int = setting(300, "megabytes of weights in a file", heading="Output", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shape not in SHAPES:
            raise ValueError(f"--shape={self.shape} is unknown; choose from {', '.join(SHAPES)}")


def main(flags: RandomConfig) -> int:
    """Makes the checkpoint at ``--out``."""
    if not flags.out:
        raise ValueError("--out is empty; name the directory to make")
    require_writable(flags.out, "out")
    if flags.tokenizer:
        with blame_flag(f"--tokenizer={flags.tokenizer}: "):
            whole = (as_path(flags.tokenizer) / "tokenizer.json").is_file()
            tokenizer = (load_tokenizer if whole else read_qwen)(flags.tokenizer)
    else:
        tokenizer = train_tokenizer(neutral_sentences(2000, random.Random(0)), 1000)
    config = replace(SHAPES[flags.shape], dtype=flags.dtype)
    if tokenizer.size > config.vocabulary:
        embeds = f"--shape={flags.shape} embeds {config.vocabulary}; choose another of the two"
        raise ValueError(f"--tokenizer={flags.tokenizer} has {tokenizer.size} tokens, {embeds}")
    params, shard = abstract_leaves(config, flags.dtype), flags.shard_mb * 10**6
    with blame_flag("--out: "), whole_directory(flags.out) as partial:
        draw = lambda path: random_leaf(path, params[path], flags.seed)  # noqa: E731
        write_huggingface(partial, config, params, draw, shard)
        tokenizer.save(partial)
    say(f"{flags.out}: {count_parameters(params):,} random parameters, {flags.dtype}")
    return 0


if __name__ == "__main__":
    example = "python -m benchmarks.random_checkpoint --shape=qwen2.5-0.5b --out=/tmp/qwen_random"
    summary = "write a checkpoint of a known model's exact shape with random weights"
    run(main, RandomConfig, summary, example)
