import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from smf_jax.data.tokenizer import train_tokenizer
from smf_jax.interop.huggingface.checkpoint import (
    huggingface_name,
    load_huggingface,
    save_huggingface,
)
from smf_jax.models.config import RopeScaling
from smf_jax.models.decoder import Decoder
from smf_jax.models.generate import generate, left_pad
from smf_jax.params import flatten
from tests.models.make_golden import (
    EVERY,
    GOLDEN,
    NAMES,
    OLD_SPELLING,
    SHARDED,
    saved_model,
)
from tests.models.tiny import PLAIN, random_params, with_memory

TOLERANCE = 1e-5
NORM = "model.norm.weight"
VARIANTS = {
    "qwen2": replace(
        PLAIN, family="qwen2", head_width=4, attention_bias=True, tied=True, rope_theta=1e6
    ),
    "qwen3": replace(PLAIN, family="qwen3", query_key_norm=True),
    "llama": replace(
        PLAIN,
        attention_bias=True,
        attention_output_bias=True,
        feed_forward_bias=True,
        rope_scaling=RopeScaling(8.0, 1.0, 4.0, 32),
    ),
}


@partial(jax.jit, static_argnums=0)
def logits(config, params, tokens):
    return Decoder(config).apply({"params": params}, tokens)


def continuation(config, params, prompt, steps):
    return generate(Decoder(config), params, prompt, np.ones(prompt.shape, bool), steps)


@pytest.fixture
def saved(tmp_path) -> Path:
    """A writable copy of a golden checkpoint."""
    return Path(shutil.copytree(GOLDEN / "qwen2", tmp_path / "qwen2"))


def edit_config(directory: Path, **changes) -> None:
    file = directory / "config.json"
    values = json.loads(file.read_text()) | changes
    kept = {key: value for key, value in values.items() if value is not ...}
    file.write_text(json.dumps(kept))


@pytest.mark.parametrize("name", NAMES)
def test_golden_logits_and_continuation(name):
    config, params = load_huggingface(GOLDEN / name)
    expected = np.load(GOLDEN / name / "expected.npz")
    found = np.asarray(logits(config, params, expected["prompt"]))[:, ::EVERY]
    assert np.abs(found - expected["logits"]).max() <= TOLERANCE
    assert np.abs(expected["logits"]).max() > 1
    steps = expected["continuation"].shape[1]
    np.testing.assert_array_equal(
        continuation(config, params, expected["prompt"], steps), expected["continuation"]
    )


@pytest.mark.parametrize("name", SHARDED)
def test_golden_checkpoints_are_in_several_files(name):
    assert (GOLDEN / name / "model.safetensors.index.json").exists()
    assert not (GOLDEN / name / "model.safetensors").exists()


@pytest.mark.parametrize("name", NAMES)
def test_live_parity_with_transformers_both_ways(name, tmp_path):
    torch = pytest.importorskip("torch", reason="needs torch: make test-parity")
    transformers = pytest.importorskip("transformers", reason="needs it: make test-parity")
    _, expected = saved_model(
        name, tmp_path / "theirs", torch.float32, "150KB", width=64, vocabulary=256
    )
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    values = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert ("rope_parameters" in values) == (name not in OLD_SPELLING)
    config, params = load_huggingface(tmp_path / "theirs")
    assert np.abs(logits(config, params, expected.prompt) - expected.logits).max() <= TOLERANCE
    steps = expected.continuation.shape[1]
    np.testing.assert_array_equal(
        continuation(config, params, expected.prompt, steps), expected.continuation
    )
    save_huggingface(tmp_path / "ours", config, params, shard_bytes=10**5)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    with torch.no_grad():
        found = again(torch.tensor(expected.prompt)).logits.numpy()
    np.testing.assert_allclose(found, expected.logits, atol=TOLERANCE)


def test_live_dtypes_are_those_of_the_files(tmp_path):
    torch = pytest.importorskip("torch", reason="needs torch: make test-parity")
    transformers = pytest.importorskip("transformers", reason="needs it: make test-parity")
    config, params = load_huggingface(GOLDEN / "qwen3", "float32", "stored")
    save_huggingface(tmp_path / "ours", config, params)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype="auto")
    assert {leaf.dtype for leaf in model.parameters()} == {torch.bfloat16}


def test_pretrained_story_model_tells_a_story(shared):
    tokenizers = pytest.importorskip("tokenizers")
    directory = shared / "data" / "models" / "tinystories656k"
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    config, params = load_huggingface(directory)
    tokens, valid = left_pad([tokenizer.encode("Once upon a time, ").ids], pad=0)
    found = generate(Decoder(config), params, tokens, valid, 16, stop=(2,))
    text = tokenizer.decode(np.asarray(found[0]).tolist())
    assert text.startswith("there was a little girl named Lily. She loved to")


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("shard_bytes", [10**9, 4000])
def test_export_reads_back_bit_for_bit(name, shard_bytes, tmp_path):
    config = VARIANTS[name]
    params = random_params(config)
    save_huggingface(tmp_path / "out", config, params, shard_bytes=shard_bytes)
    files = sorted(file.name for file in (tmp_path / "out").glob("*.safetensors"))
    assert (files == ["model.safetensors"]) == (shard_bytes == 10**9)
    again, found = load_huggingface(tmp_path / "out")
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_names_and_layouts():
    assert huggingface_name("layers_11/attention/query/bias") == (
        "model.layers.11.self_attn.q_proj.bias"
    )
    assert huggingface_name("embedder/embedding") == "model.embed_tokens.weight"
    stored = load_file(GOLDEN / "llama3" / "model.safetensors")
    flat = flatten(load_huggingface(GOLDEN / "llama3")[1])
    assert {huggingface_name(path) for path in flat} == set(stored)
    np.testing.assert_array_equal(
        flat["layers_1/feed_forward/up/kernel"],
        stored["model.layers.1.mlp.up_proj.weight"].T.astype(np.float32),
    )


def test_dtype_is_that_of_parameters_and_computation():
    config, params = load_huggingface(GOLDEN / "qwen3", dtype="bfloat16")
    assert config.dtype == "bfloat16"
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}


def test_parameters_may_stay_as_they_are_stored():
    config, params = load_huggingface(GOLDEN / "qwen3", "float32", "stored")
    assert config.dtype == "float32"
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    expected = np.load(GOLDEN / "qwen3" / "expected.npz")
    found = np.asarray(logits(config, params, expected["prompt"]))[:, ::EVERY]
    assert np.abs(found - expected["logits"]).max() <= TOLERANCE


def test_old_and_new_rope_keys_read_alike(tmp_path):
    directory = Path(shutil.copytree(GOLDEN / "llama3", tmp_path / "old"))
    new = load_huggingface(directory)[0]
    rope = json.loads((directory / "config.json").read_text())["rope_parameters"]
    theta = rope.pop("rope_theta")
    edit_config(directory, rope_parameters=..., rope_theta=theta, rope_scaling=rope)
    old = load_huggingface(directory)[0]
    assert old == new
    assert old.rope_theta == 500_000.0
    assert old.rope_scaling == RopeScaling(8.0, 1.0, 4.0, 64)


def test_absent_keys_mean_what_transformers_assumes(saved):
    edit_config(
        saved, head_dim=..., rope_parameters=..., rms_norm_eps=..., max_position_embeddings=...
    )
    config = load_huggingface(saved)[0]
    assert config.max_positions == 32_768
    assert config.head_width == 6
    assert config.rope_theta == 10_000.0
    assert config.norm_epsilon == 1e-6
    assert config.attention_bias
    assert not config.attention_output_bias


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_configuration_may_begin_with_a_byte_order_mark(saved, encoding):
    before = load_huggingface(saved)[0]
    file = saved / "config.json"
    file.write_text(file.read_text(), encoding=encoding)
    assert load_huggingface(saved)[0] == before


def test_tied_table_may_be_stored_as_the_head(saved):
    expected = load_huggingface(saved)[1]
    tensors = load_file(saved / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    save_file(tensors, saved / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, load_huggingface(saved)[1], expected)
    del tensors["model.embed_tokens.weight"]
    save_file(tensors, saved / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, load_huggingface(saved)[1], expected)


def test_tied_head_that_differs_is_refused(saved):
    tensors = load_file(saved / "model.safetensors")
    tensors["lm_head.weight"] = 2 * tensors["model.embed_tokens.weight"]
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(ValueError, match=r"lm_head.weight in model.safetensors differs"):
        load_huggingface(saved)


def test_every_differing_tensor_is_listed(saved):
    tensors = load_file(saved / "model.safetensors")
    del tensors["model.norm.weight"]
    tensors["model.layers.0.mlp.up_proj.weight"] = np.zeros((3, 5), np.float32)
    tensors["model.layers.1.mlp.up_proj.weight"] = np.zeros((40, 24), np.int8)
    tensors["model.layers.7.strange"] = np.zeros(2, np.float32)
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(ValueError) as caught:
        load_huggingface(saved)
    for problem in (
        "missing: model.norm.weight (24,)",
        "shape: model.layers.0.mlp.up_proj.weight is (3, 5), expected (40, 24)",
        "dtype: model.layers.1.mlp.up_proj.weight is I8; quantised weights are not read",
        "unexpected: model.layers.7.strange (2,)",
    ):
        assert problem in str(caught.value)


def test_truncated_weights_name_the_file(saved):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"qwen2/model.safetensors \(.* truncated or damaged"):
        load_huggingface(saved)


def test_missing_weights_name_the_file(saved):
    (saved / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="lacks model.safetensors"):
        load_huggingface(saved)


def test_missing_shard_names_the_file(tmp_path):
    save_huggingface(tmp_path / "out", PLAIN, random_params(PLAIN), shard_bytes=4000)
    second = sorted((tmp_path / "out").glob("*.safetensors"))[1]
    second.unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {second.name}"):
        load_huggingface(tmp_path / "out")


OLD_SHARDS, NEW_SHARDS = ("model-00001-of-00002", "model-00002-of-00002"), ("other-1", "other-2")
FILES = {
    "whole": ["model.safetensors"],
    "index": ["model.safetensors.index.json"],
    "shards": [f"{name}.safetensors" for name in OLD_SHARDS],
    "pickle": ["pytorch_model.bin"],
    "named": ["mine.safetensors"],
    "named index": ["mine.safetensors.index.json", *(f"{n}.safetensors" for n in NEW_SHARDS)],
}
# What lies in a directory, what its configuration names, and what transformers 5.24 reads there:
# the file that the weights are of, or None where it finds none or cannot open it.
PRECEDENCE = [
    (("whole",), None, "whole"),
    (("index", "shards"), None, "shards"),
    (("whole", "index", "shards"), None, "whole"),
    (("whole", "index"), None, "whole"),
    (("whole", "shards"), None, "whole"),
    (("whole", "pickle"), None, "whole"),
    (("index", "shards", "pickle"), None, "shards"),
    (("index",), None, None),
    (("shards",), None, None),
    (("whole", "named"), "mine.safetensors", "named"),
    (("whole", "named index"), "mine.safetensors.index.json", "named index"),
    (("whole",), "mine.safetensors", None),
    (("whole",), "mine.bin", None),
    (("whole", "named"), "../mine.safetensors", None),
]


def lay_out(directory: Path, kinds: tuple[str, ...], named: str | None) -> dict[str, float]:
    """Weights of several kinds in one directory, and a norm that tells each from the others."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    norms = {}
    for number, kind in enumerate(("whole", "shards", "pickle", "named", "named index"), start=1):
        norms[kind] = float(number)
        own = tensors | {NORM: np.full_like(tensors[NORM], number)}
        if kind in ("whole", "named") and kind in kinds:
            save_file(own, directory / FILES[kind][0], metadata={"format": "pt"})
        elif kind == "pickle" and kind in kinds:
            (directory / FILES[kind][0]).write_bytes(b"a pickle")
        elif kind in ("shards", "named index"):
            index = FILES["index" if kind == "shards" else kind][0]
            shards = [file for file in FILES[kind] if not file.endswith(".json")]
            names = {name: shards[i % 2] for i, name in enumerate(own)}
            for shard in shards if kind in kinds else ():
                part = {name: own[name] for name, of in names.items() if of == shard}
                save_file(part, directory / shard, metadata={"format": "pt"})
            if "index" in kinds if kind == "shards" else kind in kinds:
                told = {"metadata": {}, "weight_map": names}
                (directory / index).write_text(json.dumps(told))
    edit_config(directory, transformers_weights=named or ...)
    return norms


@pytest.mark.parametrize(("kinds", "named", "expected"), PRECEDENCE)
def test_weights_are_read_from_the_file_that_transformers_reads(saved, kinds, named, expected):
    norms = lay_out(saved, kinds, named)
    if expected is None:
        with pytest.raises((FileNotFoundError, ValueError), match=r"qwen2.*safetensors"):
            load_huggingface(saved)
    else:
        norm = load_huggingface(saved)[1]["final_norm"]["scale"]
        np.testing.assert_array_equal(norm, norms[expected])


@pytest.mark.parametrize(("kinds", "named", "expected"), PRECEDENCE)
def test_live_precedence_of_weights_is_the_recorded_one(saved, kinds, named, expected):
    norms = lay_out(saved, kinds, named)
    transformers = pytest.importorskip("transformers", reason="needs it: make test-parity")
    pytest.importorskip("torch", reason="needs torch: make test-parity")
    if expected is None:
        with pytest.raises((OSError, ValueError)):
            transformers.AutoModelForCausalLM.from_pretrained(saved)
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(saved)
        assert set(model.model.norm.weight.float().tolist()) == {norms[expected]}


def test_weights_that_are_a_pickle_are_named(saved):
    lay_out(saved, ("pickle",), None)
    with pytest.raises(FileNotFoundError, match=r"lacks model.safetensors \(pytorch_model.bin is"):
        load_huggingface(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", r"weight_map=\(absent\): expected the file of every tensor"),
        ('{"weight_map": {}}', "weight_map={}: expected the file of every tensor"),
        ('{"weight_map": ["x"]}', "weight_map=.*: expected an object"),
        ('{"weight_map": {"a.weight": 5}}', "weight_map.a.weight=5: expected a text"),
        ("[]", "expected a JSON object, found list"),
        ("{", "not valid JSON"),
    ],
)
def test_damaged_index_is_named(content, message, tmp_path):
    save_huggingface(tmp_path / "out", PLAIN, random_params(PLAIN), shard_bytes=4000)
    (tmp_path / "out" / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=f"index.json: {message}"):
        load_huggingface(tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type='gpt2' is not supported"),
        ({"hidden_size": ...}, r"keys \['hidden_size'\] are missing"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
        ({"use_sliding_window": True}, "use_sliding_window=True is not supported"),
        ({"layer_types": ["sliding_attention"]}, "layer_types=.* is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config=.* is not supported"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type='yarn' is not supported"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5 is not"),
        ({"rope_parameters": {"rope_type": "llama3"}}, r"needs the keys \['factor'"),
    ],
)
def test_other_models_are_refused(saved, changes, message):
    edit_config(saved, **changes)
    with pytest.raises(ValueError, match=f"config.json: .*{message}"):
        load_huggingface(saved)


def test_unreadable_directories_are_named(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere/config.json does not exist"):
        load_huggingface(tmp_path / "nowhere")
    (saved / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json: not valid JSON"):
        load_huggingface(saved)


def test_export_refuses_what_it_cannot_write(tmp_path):
    params = random_params(PLAIN)
    config = with_memory("add")
    with pytest.raises(ValueError, match=r"memories in layers \(1,\) have no place"):
        save_huggingface(tmp_path / "out", config, random_params(config))
    with pytest.raises(ValueError, match="qwen2 has no variant with attention_bias=False"):
        save_huggingface(tmp_path / "out", replace(PLAIN, family="qwen2"), params)
    del params["final_norm"]
    with pytest.raises(ValueError, match="missing: final_norm/scale"):
        save_huggingface(tmp_path / "out", PLAIN, params)
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="out exists; choose another directory"):
        save_huggingface(tmp_path / "out", PLAIN, params)


def test_export_writes_the_tokenizer_of_companions(saved, tmp_path):
    train_tokenizer(["a b"], 259).save(saved)
    config, params = load_huggingface(saved)
    with pytest.raises(ValueError, match="has 259 tokens, but the embedding has"):
        save_huggingface(tmp_path / "out", config, params, companions=saved)
    assert not (tmp_path / "out").exists()
    config = replace(PLAIN, vocabulary=259)
    save_huggingface(tmp_path / "out", config, random_params(config), companions=saved)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_text() == (saved / name).read_text()
