"""Trees by path."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from smf_jax.params import (
    MemoryPart,
    block_of,
    block_path,
    count_bytes,
    count_parameters,
    flatten,
    is_batch_stats,
    is_memory,
    is_pool,
    is_routing,
    memory_layer_path,
    memory_part,
    pool_path,
    split,
    unflatten,
)
from tests.training import tiny

NESTED = {"b": {"y": {"z": jnp.ones((2, 3))}, "x": jnp.zeros(4)}, "a": jnp.ones((), jnp.bfloat16)}


def test_flat_paths_are_sorted_and_come_back():
    flat = flatten(NESTED)
    assert list(flat) == ["a", "b/x", "b/y/z"]
    back = unflatten(flat)
    assert back.keys() == NESTED.keys() and back["b"]["y"]["z"] is NESTED["b"]["y"]["z"]


def test_a_split_holds_every_leaf_once():
    flat = flatten(NESTED)
    trainable, frozen = split(flat, lambda path: path.startswith("b/"))
    assert list(trainable) == ["b/x", "b/y/z"] and list(frozen) == ["a"]
    assert split(flat, lambda _: False) == ({}, flat)


def test_counts():
    assert count_parameters(NESTED) == 6 + 4 + 1
    assert count_bytes(NESTED) == 4 * 10 + 2
    assert count_bytes({"n": np.zeros(3, np.int8)}) == 3


def test_every_leaf_of_a_decoder_is_of_one_part():
    """The public contract: a block, a memory's layer, a pool, or what the whole model has."""
    model = tiny.model_config(layers=(0, 1), mode="add", shared_pool=True)
    rest = set(tiny.params(model))
    assert {path for path in rest if is_pool(path)} == {pool_path(0)}
    for block in (0, 1):
        own = {path for path in rest if block_of(path) == block}
        read = {path for path in rest if path.startswith(f"{memory_layer_path(block)}/")}
        assert own and own == {path for path in rest if path.startswith(f"{block_path(block)}/")}
        parts = [memory_part(path) for path in read]
        assert {part and part[:2] for part in parts} == {("layer", block)}
        assert not own & read and not any(map(is_memory, own)) and all(map(is_memory, read))
        rest -= own | read
    assert rest == {pool_path(0), "embedder/embedding", "final_norm/scale", "head/kernel"}
    assert memory_part(pool_path(0)) == MemoryPart("pool", 0, "values")
    assert memory_part("final_norm/scale") is None is block_of("memory/layer_0/keys")


def test_a_block_is_not_taken_for_another_that_begins_alike():
    assert block_of("layers_12/attention/query/kernel") == 12
    assert not is_memory("memory_of_mine/pool_0/values")
    assert is_pool("encoder/memory/pool_12/values") and not is_pool("memory/pool_0/expert_inputs")


def test_leaves_that_route_and_running_statistics_are_known_by_path():
    layer = memory_layer_path(3)
    for leaf in ("query/kernel", "query_norm/mean", "query_scale", "keys", "key_scale"):
        assert is_routing(f"{layer}/{leaf}")
    for leaf in ("gate/kernel", "output/kernel", "alpha", "output_norm/scale"):
        assert not is_routing(f"{layer}/{leaf}")
    assert not is_routing("layers_3/attention/query/kernel") and not is_routing(pool_path(3))
    norm = f"{layer}/query_norm"
    assert is_batch_stats(f"{norm}/mean") and is_batch_stats(f"{norm}/variance")
    assert not is_batch_stats(f"{norm}/scale")
    assert not is_batch_stats("layers_0/attention/query_norm/scale")
