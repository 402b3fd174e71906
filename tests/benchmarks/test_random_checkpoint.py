import json

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import random_checkpoint
from benchmarks.random_checkpoint import SHAPES, RandomFlags, random_leaf
from smf_jax.data.tokenizer import load_tokenizer
from smf_jax.interop.huggingface.checkpoint import load_huggingface
from smf_jax.models.decoder import abstract_params
from smf_jax.params import count_parameters, flatten


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    out = tmp_path_factory.mktemp("random") / "tiny"
    assert random_checkpoint.main(RandomFlags(out=str(out), shape="tiny", shard_mb=1)) == 0
    return out


# Of the published models; see their cards.
@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen3-0.6b", 596_049_920),
        ("llama3.2-1b", 1_235_814_400),
    ],
)
def test_shapes_are_those_of_the_published_models(shape, parameters):
    assert count_parameters(abstract_params(SHAPES[shape])) == parameters


def test_the_checkpoint_loads_from_several_files(tiny):
    index = json.loads((tiny / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    config, tree = load_huggingface(tiny, "float32", "stored")
    assert config == SHAPES["tiny"]
    params = flatten(tree)
    assert {leaf.dtype for leaf in params.values()} == {jnp.dtype(jnp.bfloat16)}
    for path, leaf in params.items():
        values = np.asarray(leaf, np.float32)
        mean = 1.0 if path.endswith("/scale") else 0.0
        assert abs(values.mean() - mean) < 0.01, path
        assert 0.01 < values.std() < 0.03, path
    tokenizer = load_tokenizer(tiny, config.vocabulary)
    assert tokenizer.decode(tokenizer.encode("a dog")) == "a dog"


def test_weights_follow_the_seed_and_the_path():
    def leaf(path="a/kernel", seed=0):
        return random_leaf(path, (3, 5), np.dtype(np.float32), seed)

    np.testing.assert_array_equal(leaf(), leaf())
    assert (leaf() != leaf(seed=1)).all()
    assert (leaf() != leaf(path="b/kernel")).all()


def test_large_leaves_are_drawn_in_blocks(monkeypatch):
    monkeypatch.setattr(random_checkpoint, "_BLOCK", 7)
    leaf = random_leaf("a/kernel", (5, 9), np.dtype(np.float32), 0)
    assert len(np.unique(leaf)) == 45


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"out": ""}, "--out is empty"),
        ({"shape": "gpt2"}, "--shape=gpt2 is unknown; choose from qwen2.5-0.5b"),
        ({"dtype": "int8"}, "--dtype=int8 is unknown"),
        ({"shard_mb": 0}, "--shard_mb=0: expected at least 1"),
        ({"seed": -1}, "--seed=-1"),
        ({"tokenizer": "nowhere"}, "--tokenizer=nowhere: .*vocab.json: no such file"),
    ],
)
def test_bad_flags_are_refused(flags, message, tmp_path):
    given = {"out": str(tmp_path / "new"), "shape": "tiny"} | flags
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        random_checkpoint.main(RandomFlags(**given))
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_that_is_too_large_is_refused(tmp_path, shared):
    tokenizer = str(shared / "data" / "tokenizers" / "qwen2.5")
    with pytest.raises(ValueError, match="has 151665 tokens, --shape=tiny embeds 2048"):
        random_checkpoint.main(
            RandomFlags(out=str(tmp_path / "new"), shape="tiny", tokenizer=tokenizer)
        )


def test_a_directory_that_exists_is_refused(tiny):
    with pytest.raises(FileExistsError, match="tiny exists"):
        random_checkpoint.main(RandomFlags(out=str(tiny), shape="tiny"))
