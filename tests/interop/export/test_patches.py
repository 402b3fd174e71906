import json
import math
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from smf_jax.interop.export.patches import (
    load_memory,
    load_patch,
    memory_name,
    save_memory,
    save_patch,
)
from smf_jax.sparse.patch import Patch, make_patch, pool_change


def patch(dtype: Any = np.float32) -> Patch:
    rng = np.random.default_rng(0)
    old, new = (rng.standard_normal((3, 4)).astype(dtype) for _ in range(2))
    pools = {"memory/pool_6/values": pool_change(np.array([7, 0, 2]), old, new, 9)}
    scalars = {"memory/layer_6/alpha": (np.asarray(0.01, dtype), np.asarray(0.02, dtype))}
    return make_patch(pools, scalars, task="faits d'été", base="b" * 64)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("memory/layer_6/query/kernel", "layers.6.query.weight"),
        ("memory/layer_6/query/bias", "layers.6.query.bias"),
        ("memory/layer_12/query_norm/scale", "layers.12.query_norm.scale"),
        ("memory/layer_12/keys", "layers.12.keys"),
        ("memory/layer_12/alpha", "layers.12.alpha"),
        ("memory/pool_0/values", "pools.0.values"),
        ("memory/pool_0/expert_inputs", "pools.0.expert_inputs"),
    ],
)
def test_names(path, name):
    assert memory_name(path) == name


@pytest.mark.parametrize("path", ["layers_0/attention/query/kernel", "memory/odd/keys", "keys"])
def test_paths_outside_of_a_memory_are_refused(path):
    with pytest.raises(ValueError, match=f"{path} is no leaf of a memory"):
        memory_name(path)


def test_a_patch_comes_back_bit_for_bit(tmp_path):
    for dtype in (np.float32, np.float16):
        first = patch(dtype)
        save_patch(tmp_path / "p.safetensors", first)
        second = load_patch(tmp_path / "p.safetensors")
        for name in ("task", "base", "parent", "fingerprint"):
            assert getattr(second, name) == getattr(first, name)
        arrays, about = first.to_arrays()
        found, found_about = second.to_arrays()
        assert found_about == about
        assert found.keys() == arrays.keys()
        for path, array in arrays.items():
            assert (found[path].dtype, found[path].shape) == (array.dtype, array.shape)
            assert found[path].tobytes() == array.tobytes()


def test_what_is_no_patch_is_refused(tmp_path):
    file = tmp_path / "p.safetensors"
    save_file({"x": np.zeros(2, np.float32)}, file)
    with pytest.raises(ValueError, match=r"p.safetensors is no patch of smf_jax"):
        load_patch(file)
    save_patch(file, patch())
    with safe_open(file, "numpy") as opened:
        header = opened.metadata()
    save_file(load_file(file), file, metadata=header | {"smf_jax": '{"paths": [], "kind": "x"}'})
    with pytest.raises(ValueError, match=r"p.safetensors: kind='x'.* expected a patch"):
        load_patch(file)
    tensors = load_file(file)
    del tensors["pools.6.values.old"]
    save_file(tensors, file, metadata=header)
    with pytest.raises(ValueError, match=r"no patch of smf_jax .*pools.6.values.old"):
        load_patch(file)
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"p.safetensors \(40 bytes\) is truncated or damaged"):
        load_patch(file)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        load_patch(tmp_path / "nowhere")


def test_no_flipped_bit_goes_unseen(tmp_path):
    file = tmp_path / "p.safetensors"
    save_patch(file, patch())
    whole = file.read_bytes()
    for bit in range(0, 8 * len(whole), 23):  # of every byte in turn another bit
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(bytes(data))
        try:
            found = load_patch(file)
        except ValueError as error:
            assert str(file) in str(error)
        else:  # such as a blank of the header, or the name of its digest
            assert same(found, patch()), bit


def same(one: Patch, other: Patch) -> bool:
    (arrays, about), (found, found_about) = one.to_arrays(), other.to_arrays()
    assert arrays.keys() == found.keys()
    return about == found_about and all(np.array_equal(arrays[name], found[name]) for name in found)


def test_a_patch_of_an_earlier_version_has_no_digests(tmp_path):
    file = tmp_path / "p.safetensors"
    save_patch(file, patch())
    with safe_open(file, "numpy") as opened:
        about = json.loads(opened.metadata()["smf_jax"])
    del about["arrays"], about["sha256"]
    save_file(load_file(file), file, metadata={"smf_jax": json.dumps(about)})
    assert same(load_patch(file), patch())


def mutations(told: dict, value: Any):
    """Copies of nested values with one of them replaced, and its key."""
    for key, old in told.items():
        yield key, told | {key: value}
        if isinstance(old, dict):
            for inner, changed in mutations(old, value):
                yield inner, told | {key: changed}


@pytest.mark.parametrize(
    "value", [True, "512", [1], {}, None, -2, 1.5, math.nan, math.inf, 10**12, ""]
)
def test_a_header_of_other_types_is_named(value, tmp_path):
    file = tmp_path / "p.safetensors"
    save_patch(file, patch())
    with safe_open(file, "numpy") as opened:
        told = json.loads(opened.metadata()["smf_jax"])
    for digest in ("sha256", "arrays"):  # which would tell of damage, and not of what is wrong
        told.pop(digest, None)
    tensors, count = load_file(file), 0
    for key, changed in mutations(told, value):
        text = json.dumps(changed).replace("Infinity", "1e400")
        save_file(tensors, file, metadata={"smf_jax": text})
        if isinstance(value, str) and key in ("base", "task", "parent", "fingerprint"):
            load_patch(file)  # a name like another
            continue
        with pytest.raises(ValueError, match=f"p.safetensors: .*{key}"):
            load_patch(file)
        count += 1
    assert count == (7 if isinstance(value, str) else 11)
    save_file(tensors, file, metadata={"smf_jax": "[" * 10**5})
    with pytest.raises(ValueError, match="p.safetensors: not valid JSON"):
        load_patch(file)


def test_memory_files_hold_exactly_the_leaves(tmp_path):
    rng = np.random.default_rng(1)
    params = {
        "memory/layer_0/query/kernel": rng.standard_normal((3, 5)).astype(np.float32),
        "memory/layer_0/alpha": np.asarray(0.5, np.float32),
        "memory/pool_0/values": rng.standard_normal((4, 2)).astype(np.float32),
    }
    file = tmp_path / "memory.safetensors"
    save_memory(file, params)
    assert load_file(file)["layers.0.query.weight"].shape == (5, 3)
    found = load_memory(file, list(params))
    for path, leaf in params.items():
        assert (found[path].shape, found[path].tobytes()) == (leaf.shape, leaf.tobytes())
    with pytest.raises(ValueError, match=r"missing \['layers.1.keys'\], not expected \['layers.0"):
        load_memory(file, ["memory/layer_1/keys", "memory/pool_0/values"])
