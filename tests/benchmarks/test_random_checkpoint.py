"""A checkpoint of random weights: it loads, and bad flags leave nothing behind."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import random_checkpoint
from benchmarks.models import SHAPES
from benchmarks.random_checkpoint import RandomConfig
from smf_jax.data.tokenizer import load_tokenizer
from smf_jax.interop.huggingface.checkpoint import load_huggingface
from smf_jax.params import flatten


def test_the_checkpoint_loads_from_several_files(tmp_path):
    out = tmp_path / "tiny"
    flags = RandomConfig(out=str(out), shape="tiny", shard_mb=1)
    assert random_checkpoint.main(flags) == 0
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    config, tree = load_huggingface(out, "float32", "stored")
    assert config == SHAPES["tiny"]
    for path, leaf in flatten(tree).items():
        assert leaf.dtype == jnp.bfloat16
        values = np.asarray(leaf, np.float32)
        mean = 1.0 if path.endswith("/scale") else 0.0
        assert abs(values.mean() - mean) < 0.01, path
        assert 0.01 < values.std() < 0.03, path
    tokenizer = load_tokenizer(out, config.vocabulary)
    assert tokenizer.decode(tokenizer.encode("a dog")) == "a dog"
    with pytest.raises(FileExistsError, match="tiny exists"):
        random_checkpoint.main(flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"out": ""}, "--out is empty"),
        ({"shape": "gpt2"}, "--shape=gpt2 is unknown; choose from qwen2.5-0.5b"),
        ({"shard_mb": 0}, "--shard_mb=0: expected at least 1"),
        ({"tokenizer": "nowhere"}, "--tokenizer=nowhere: .*vocab.json: no such file"),
    ],
)
def test_bad_flags_are_refused(flags, message, tmp_path):
    given = {"out": str(tmp_path / "new"), "shape": "tiny"} | flags
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        random_checkpoint.main(RandomConfig(**given))
    assert not list(tmp_path.iterdir())
