import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from smf_jax.checkpoints.manifest import Manifest
from smf_jax.data.tokenizer import load_tokenizer
from smf_jax.interop.export.card import CardFacts, model_card
from smf_jax.interop.export.model import export_model, is_exported, load_exported
from smf_jax.interop.huggingface.checkpoint import load_huggingface, save_huggingface
from smf_jax.models.decoder import Decoder
from smf_jax.params import Params, flatten, unflatten
from smf_jax.sparse.patch import apply_patch
from tests.interop.export.tiny import patches_of
from tests.models.tiny import PLAIN, random_params, random_tokens, with_memory

FACTS = CardFacts(name="A model", origin="nowhere")
BASE = replace(PLAIN, family="llama", feed_forward_bias=True)


def model_of(mode: str, layers=(0, 1), dtype=jnp.float32, **choices):
    """A model with memories: its base in some dtype, the memories in float32."""
    config = replace(with_memory(mode, layers, **choices), feed_forward_bias=True)
    params = {
        path: leaf if path.startswith("memory/") else leaf.astype(dtype)
        for path, leaf in flatten(random_params(config)).items()
    }
    return config, params


def assert_same_leaves(found: Params, expected: Params) -> None:
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        assert (found[path].dtype, found[path].shape) == (leaf.dtype, leaf.shape), path
        assert np.asarray(found[path]).tobytes() == np.asarray(leaf).tobytes(), path


@pytest.mark.parametrize(
    ("mode", "choices"),
    [
        ("add", {}),
        ("replace", {}),
        ("pretrain", {"layers": (0,)}),
        ("add", {"shared_pool": True}),
        ("add", {"dtype": jnp.bfloat16}),
        ("replace", {"dtype": jnp.bfloat16}),
    ],
)
def test_reads_back_the_very_same_leaves_with_patches(mode, choices, tmp_path):
    config, params = model_of(mode, **choices)
    patches = patches_of(params)
    export_model(tmp_path / "out", config, params, patches, facts=FACTS, shard_bytes=4000)
    found = load_exported(tmp_path / "out")
    assert found.config == config
    assert is_exported(tmp_path / "out")
    assert [patch.task for patch in found.patches] == ["task 0?", "task 1?"]
    expected = params
    for count, patch in enumerate([None, *patches]):
        expected = expected if patch is None else apply_patch(expected, patch)
        assert_same_leaves(load_exported(tmp_path / "out", patches=count).params, expected)
    assert_same_leaves(found.params, expected)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card == model_card(config, params, patches, FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_memory_it_is_a_plain_checkpoint(tmp_path):
    params = flatten(random_params(BASE))
    export_model(tmp_path / "ours", BASE, params)
    save_huggingface(tmp_path / "plain", BASE, params)
    names = {path.name for path in (tmp_path / "plain").iterdir()}
    assert {path.name for path in (tmp_path / "ours").iterdir()} == names | {"smf_jax.json"}
    for name in names:
        ours, plain = ((tmp_path / kind / name).read_bytes() for kind in ("ours", "plain"))
        assert ours == plain, name
    assert_same_leaves(load_exported(tmp_path / "ours").params, params)


def test_base_is_the_model_with_nothing_in_the_place_of_its_memories(tmp_path):
    for mode in ("add", "replace"):
        config, params = model_of(mode)
        export_model(tmp_path / mode, config, params)
        plain, tree = load_huggingface(tmp_path / mode)
        assert plain == replace(config, memory=None)
        for path, leaf in flatten(tree).items():
            expected = params.get(path, np.zeros_like(leaf))
            np.testing.assert_array_equal(leaf, expected, err_msg=path)
    # α = 0 is the base, whatever stands in the memory.
    config, params = model_of("add")
    silent = {p: jnp.zeros_like(x) if p.endswith("/alpha") else x for p, x in params.items()}
    tokens = random_tokens(config, (2, 9))
    with_memory_, without = (
        jax.jit(Decoder(each).apply)({"params": given}, tokens)
        for each, given in (
            (config, unflatten(silent)),
            (plain, load_huggingface(tmp_path / "add")[1]),
        )
    )
    np.testing.assert_array_equal(with_memory_, without)


def test_files_have_names_that_read_well(tmp_path):
    config, params = model_of("add")
    export_model(tmp_path / "out", config, params, patches_of(params))
    memory = load_file(tmp_path / "out" / "memory.safetensors")
    assert {
        "layers.0.query.weight",
        "layers.0.query.bias",
        "layers.0.keys",
        "layers.0.alpha",
        "layers.1.gate.weight",
        "layers.1.output.weight",
        "pools.0.values",
        "pools.1.values",
    } <= set(memory)
    np.testing.assert_array_equal(
        memory["layers.0.query.weight"], np.asarray(params["memory/layer_0/query/kernel"]).T
    )
    first = tmp_path / "out" / "patches" / "00_task_0.safetensors"
    assert set(load_file(first)) == {
        "pools.0.values.slots",
        "pools.0.values.old",
        "pools.0.values.new",
        "pools.1.values.slots",
        "pools.1.values.old",
        "pools.1.values.new",
        "layers.1.alpha.old",
        "layers.1.alpha.new",
    }


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    config, params = model_of("add")
    directory = tmp_path_factory.mktemp("exported") / "out"
    export_model(directory, config, params, patches_of(params))
    return directory


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


@pytest.mark.parametrize(
    ("file", "name", "message"),
    [
        ("model.safetensors", "model.norm.weight", "1 leaves are not those .*: final_norm/scale"),
        ("memory.safetensors", "pools.1.values", "1 leaves .*: memory/pool_1/values"),
        ("patches/01_task_1.safetensors", "pools.0.values.new", "01_task_1.* its arrays are not"),
    ],
)
def test_one_flipped_bit_is_named(copy, file, name, message):
    with safe_open(copy / file, "numpy") as opened:
        header = opened.metadata()
    tensors = load_file(copy / file)
    tensors[name].reshape(-1).view(np.uint8)[0] ^= 1
    save_file(tensors, copy / file, metadata=header)
    with pytest.raises(ValueError, match=message):
        load_exported(copy)


def test_another_tokenizer_or_configuration_is_named(tmp_path, plain_checkpoint):
    config = with_memory("add", (1,))
    config = replace(config, vocabulary=load_tokenizer(plain_checkpoint).size)
    out = tmp_path / "out"
    export_model(out, config, random_params(config), companions=plain_checkpoint)
    load_exported(out)
    for name in ("config", "tokenizer", "tokenizer_config", "generation_config"):
        name = f"{name}.json"
        text = (out / name).read_text()
        (out / name).write_text(text.replace("1", "3", 1).replace("<|pad|>", "<|qad|>"))
        with pytest.raises(ValueError, match=f"{name}: changed since it was written; restore a"):
            load_exported(out)
        (out / name).write_text(text)
    stored = Manifest.from_json(json.loads((out / "smf_jax.json").read_text()))
    del stored.metadata["files"]  # as an earlier version did
    (out / "smf_jax.json").write_text(json.dumps(stored.to_json()))
    (out / name).write_text(text.replace("1", "3", 1))
    load_exported(out)


@pytest.mark.parametrize(
    "file", ["model.safetensors", "memory.safetensors", "patches/00_task_0.safetensors"]
)
def test_missing_and_truncated_files_are_named(copy, file):
    whole = (copy / file).read_bytes()
    (copy / file).write_bytes(whole[:-50])
    with pytest.raises(ValueError, match=rf"{file} .* truncated or damaged"):
        load_exported(copy)
    (copy / file).unlink()
    with pytest.raises(FileNotFoundError, match=file.rpartition("/")[2]):
        load_exported(copy)


def test_manifests_of_others_are_refused(copy, tmp_path):
    file = copy / "smf_jax.json"
    stored = json.loads(file.read_text())
    stored["metadata"]["model"]["layers"] = 3
    file.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"smf_jax.json: its manifest does not match"):
        load_exported(copy)
    file.write_text("{")
    with pytest.raises(ValueError, match=r"smf_jax.json"):
        load_exported(copy)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"smf_jax.json does not exist; give a directory"):
        load_exported(copy)


def test_number_of_patches_is_checked(exported):
    for count in (-1, 3):
        with pytest.raises(ValueError, match=f"patches={count}: .* holds 2"):
            load_exported(exported, patches=count)


def test_computation_may_take_another_dtype(exported):
    found = load_exported(exported, dtype="bfloat16")
    assert found.config.dtype == "bfloat16"
    assert {leaf.dtype for leaf in found.params.values()} == {jnp.dtype(jnp.float32)}


def test_export_refuses_what_does_not_fit(tmp_path):
    out = tmp_path / "out"
    config, params = model_of("add")
    patches = patches_of(params)
    with pytest.raises(ValueError, match=r"patch 'task 1\?' does not fit"):
        export_model(out, config, params, patches[1:])
    with pytest.raises(ValueError, match=r"patch 'task 0\?' belongs to base"):
        other = {**params, "final_norm/scale": params["final_norm/scale"] + 1}
        export_model(out, config, other, patches)
    with pytest.raises(ValueError, match=r"patches=.* \(config.memory=None\)"):
        export_model(out, BASE, flatten(random_params(BASE)), patches)
    with pytest.raises(ValueError, match="missing: final_norm/scale"):
        export_model(out, config, {p: x for p, x in params.items() if "final" not in p})
    with pytest.raises(ValueError, match="qwen2 has no variant with feed_forward_bias=True"):
        export_model(out, replace(config, family="qwen2", attention_bias=True), params)
    assert not list(tmp_path.iterdir())
    out.mkdir()
    with pytest.raises(FileExistsError, match="out exists"):
        export_model(out, config, params)


def test_nothing_is_left_of_an_export_that_fails(tmp_path):
    config, params = model_of("add")

    class Tokenizer:
        def save(self, directory):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        export_model(tmp_path / "out", config, params, tokenizer=Tokenizer())
    assert not list(tmp_path.iterdir())
