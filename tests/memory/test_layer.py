"""The memory block against its formulas, and its errors; test_golden.py has the golden vectors."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.memory.layer import PERTURBATIONS, READS, MemoryConfig, MemoryLayer, MemoryPool
from smf_jax.params import flatten, unflatten
from tests import oracles

CONFIG = MemoryConfig(keys_per_half=5, heads=2, reads=3, key_width=6, value_width=7)
WIDTH, BATCH, TOKENS = 4, 2, 3


def random_leaves(config, width=WIDTH, seed=0, **attributes):
    """Leaves of a layer, all random, and a table."""
    rng = np.random.default_rng(seed)
    layer = MemoryLayer(config, width, **attributes)
    values = jnp.asarray(rng.standard_normal((config.slots, config.value_width)), jnp.float32)
    tables = values, None, random_experts(config)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 1, width)), *tables)
    params = {
        path: jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype)
        for path, leaf in flatten(shapes["params"]).items()
    }
    params = {p: jnp.abs(leaf) if p.endswith("variance") else leaf for p, leaf in params.items()}
    return layer, params, values


def random_experts(config):
    """The second table, of a memory of experts."""
    rows = np.random.default_rng(3).standard_normal((config.slots, WIDTH))
    return jnp.asarray(rows, jnp.float32) if config.experts else None


def random_input(width=WIDTH, seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((BATCH, TOKENS, width)), "f")


@partial(jax.jit, static_argnums=0)
def run(layer, params, values, x, inputs=None):
    """The output, and the read as sown."""
    tables = values, None, inputs
    y, sown = layer.apply({"params": unflatten(params)}, x, *tables, mutable=[READS])
    return y, sown[READS]["read"]


def normalised(x, scale, epsilon=1e-6):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale


def layer_normalised(x, params, name, epsilon=1e-5):
    centred = x - x.mean(-1, keepdims=True)
    return normalised(centred, params[f"{name}/scale"], epsilon) + params[f"{name}/bias"]


def gelu(x):
    """The exact one, ``x Φ(x)``."""
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def by_formula(config, params, values, x, inputs=None):
    """The block in NumPy, in float64, over all N slots."""
    params = {path: np.asarray(leaf, np.float64) for path, leaf in params.items()}
    x = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
    queries = x @ params["query/kernel"] + params.get("query/bias", 0)
    if config.query_norm == "batch":
        norm = {
            name: params[f"query_norm/{name}"] for name in ("mean", "variance", "scale", "bias")
        }
        queries = (queries - norm["mean"]) / np.sqrt(norm["variance"] + 1e-5)
        queries = queries * norm["scale"] + norm["bias"]
    queries = queries.reshape(len(x), config.heads, 2, -1)
    keys = params["keys"]
    if config.query_norm == "rms":
        queries = normalised(queries, params["query_norm/scale"], config.norm_epsilon or 1e-6)
    if config.query_norm == "layer":
        queries = layer_normalised(queries, params, "query_norm")
    if config.qk_norm:
        queries = normalised(queries, params["query_scale"])
        keys = normalised(keys, params["key_scale"])
    scores, slots, _ = oracles.brute_force_lookup(queries, keys, config.reads)
    weights = np.maximum(scores, 0)
    if config.score == "softmax":
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    slots, weights = slots.reshape(len(x), -1), weights.reshape(len(x), -1)
    if config.experts:
        rows = np.asarray(inputs, np.float64)[slots]
        weights = weights * gelu(np.einsum("td,trd->tr", x, rows))
    y = oracles.weighted_read(values, slots, weights)
    if config.output_norm == "layer":
        y = layer_normalised(y, params, "output_norm")
    gate = np.ones(())
    if config.gate != "none":
        gate = x @ params["gate/kernel"] + params["gate/bias"]
        gate = gate / (1 + np.exp(-gate)) if config.gate == "silu" else 1 / (1 + np.exp(-gate))
    if config.gate == "silu":
        y = y * gate
    if "output/kernel" in params:
        y = y @ params["output/kernel"] + params["output/bias"]
    return params.get("alpha", 1.0) * (y * gate if config.gate == "scalar" else y)


VARIANTS = {
    "silu, v != d": {},
    "scalar, v != d": {"gate": "scalar"},
    "scalar, v == d": {"gate": "scalar", "value_width": WIDTH},
    "none, v != d": {"gate": "none"},
    "none, v == d": {"gate": "none", "value_width": WIDTH},
    "rms norm": {"query_norm": "rms"},
    "qk-norm": {"qk_norm": True},
    "rms norm, large ε": {"query_norm": "rms", "norm_epsilon": 0.5},
    "layer norm": {"query_norm": "layer"},
    "batch norm": {"query_norm": "batch"},
    "relu": {"score": "relu"},
    "relu, output norm": {"score": "relu", "output_norm": "layer"},
    "experts": {"experts": True},
    "experts, none, v == d": {"experts": True, "gate": "none", "value_width": WIDTH},
    "one head, k = n, no bias": {"heads": 1, "reads": 5, "query_bias": False},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_follows_its_formula(name):
    config, alpha = replace(CONFIG, **VARIANTS[name]), 0.5 if "norm" in name else None
    layer, params, values = random_leaves(config, alpha=alpha)
    x = random_input()
    inputs = random_experts(config)
    y, read = run(layer, params, values, x, inputs)
    assert y.shape == x.shape
    assert read.slots.shape == read.weights.shape == (BATCH, TOKENS, config.heads, config.reads)
    truth = by_formula(config, params, values, x, inputs)
    scale = np.abs(truth).max()
    np.testing.assert_allclose(y.reshape(-1, WIDTH), truth, rtol=0, atol=2e-5 * scale)
    assert ("alpha" in params) == (alpha is not None)
    assert ("output/kernel" in params) == ("v == d" not in name)


def test_qk_norm_changes_the_output_and_gets_gradient():
    layer, params, values = random_leaves(replace(CONFIG, qk_norm=True))
    x = random_input()
    without = {path: leaf for path, leaf in params.items() if not path.endswith("_scale")}
    plain, _ = run(MemoryLayer(CONFIG, WIDTH), without, values, x)
    assert not np.allclose(run(layer, params, values, x)[0], plain, atol=1e-3)
    gradient = jax.grad(lambda params: jnp.sum(run(layer, params, values, x)[0] ** 2))(params)
    assert np.abs(gradient["query_scale"]).min() > 1e-6
    assert np.abs(gradient["key_scale"]).min() > 1e-6


def test_the_cotangent_of_the_read_is_the_gradient_of_its_perturbation():
    layer, params, values = random_leaves(CONFIG, alpha=0.3)
    x = random_input()
    noise = jnp.asarray(np.random.default_rng(2).standard_normal((BATCH, TOKENS, 7)), "f")
    variables = {"params": unflatten(params)}
    perturbed = jax.jit(layer.apply)({**variables, PERTURBATIONS: {"read": noise}}, x, values)
    gate = np.asarray(x) @ np.asarray(params["gate/kernel"]) + np.asarray(params["gate/bias"])
    moved = (np.asarray(noise) * gate / (1 + np.exp(-gate))) @ np.asarray(params["output/kernel"])
    difference = perturbed - run(layer, params, values, x)[0]
    np.testing.assert_allclose(difference, np.asarray(params["alpha"]) * moved, atol=2e-5)


def test_of_several_calls_the_latest_read_is_kept():
    layer, params, values = random_leaves(CONFIG)
    x = random_input()
    _, first = run(layer, params, values, x)
    again = {"params": unflatten(params), READS: {"read": first}}
    apply = jax.jit(partial(layer.apply, mutable=[READS]))
    _, second = apply(again, random_input(seed=9), values)
    _, alone = run(layer, params, values, random_input(seed=9))
    np.testing.assert_array_equal(second[READS]["read"].slots, alone.slots)
    assert alone.slots.dtype == jnp.int32


def test_a_bfloat16_layer_reads_with_float32_scores():
    config = replace(CONFIG, keys_per_half=16, reads=16, heads=1)
    layer, params, values = random_leaves(config, dtype=jnp.bfloat16)
    y, read = run(layer, params, values, random_input())
    assert y.dtype == read.weights.dtype == jnp.bfloat16
    kernel, x = (jnp.asarray(a, jnp.bfloat16) for a in (params["query/kernel"], random_input()))
    queries = x.reshape(-1, WIDTH) @ kernel + params["query/bias"].astype(jnp.bfloat16)[None]
    queries = np.asarray(queries.reshape(-1, 1, 2, 3), np.float64)
    truth = oracles.brute_force_lookup(queries, np.asarray(params["keys"]), 16)
    clear = truth.gap > 1e-5
    assert clear.all(), "a rounded score would tie"
    np.testing.assert_array_equal(read.slots.reshape(truth.slots.shape), truth.slots)


def test_initial_values():
    config = MemoryConfig(keys_per_half=64, heads=4, reads=8, key_width=64, value_width=64)
    width, key = 96, jax.random.key(0)
    values = cast(Any, MemoryPool(config).init(key))["params"]["values"]
    layer = MemoryLayer(config, width, alpha=0.01)
    params = flatten(jax.jit(layer.init)(key, jnp.zeros((1, 1, width)), values)["params"])
    assert values.shape == (64 * 64, 64)
    deviations = {
        "values": (values, 64**-0.5),
        "query/kernel": (params["query/kernel"], math.sqrt(2 / (width + 4 * 64))),
        "gate/kernel": (params["gate/kernel"], width**-0.5),
        "output/kernel": (params["output/kernel"], width**-0.5),
        "keys": (params["keys"], 64**-0.5 / math.sqrt(3)),
    }
    for path, (leaf, deviation) in deviations.items():
        assert np.std(leaf) == pytest.approx(deviation, rel=0.03), path
    assert np.abs(params["keys"]).max() <= 64**-0.5
    assert all(not np.asarray(leaf).any() for path, leaf in params.items() if "bias" in path)
    assert params["alpha"] == jnp.float32(0.01)


def test_keys_of_the_original_product_key_memory_start_wider():
    layer = MemoryLayer(replace(CONFIG, key_scale="pkm", gate="none", value_width=WIDTH), WIDTH)
    x, values = jnp.zeros((1, 1, WIDTH)), jnp.zeros((25, WIDTH))
    params = jax.jit(layer.init)(jax.random.key(0), x, values)["params"]
    assert 6**-0.5 < np.abs(params["keys"]).max() <= 3**-0.5


def test_parameters_of_one_layer_of_qwen_0_5b():
    config = MemoryConfig(keys_per_half=128, heads=4, reads=16, key_width=256, value_width=896)
    x, values = jnp.zeros((1, 1, 896)), jax.ShapeDtypeStruct((128**2, 896), jnp.float32)
    params = flatten(
        jax.eval_shape(MemoryLayer(config, 896).init, jax.random.key(0), x, values)["params"]
    )
    sizes = {path: math.prod(leaf.shape) for path, leaf in params.items()}
    assert math.prod(values.shape) + sum(sizes.values()) == 17_337_088
    assert sizes["keys"] == 131_072 and sizes["query/kernel"] + sizes["query/bias"] == 918_528


def test_configuration_survives_json_values():
    config = replace(CONFIG, gate="scalar", qk_norm=True)
    assert MemoryConfig.from_dict(config.to_dict()) == config
    assert (config.slots, config.reads_per_token) == (25, 6)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"heads": 0}, "heads=0 must be at least 1"),
        ({"keys_per_half": -3}, "keys_per_half=-3 must be at least 1"),
        ({"reads": 6}, "reads=6 per head exceed keys_per_half=5; .* lower reads or raise"),
        ({"key_width": 7}, "key_width=7 must be even"),
        ({"gate": "tanh"}, "gate='tanh' is unknown; choose from"),
        ({"query_norm": "group"}, "query_norm='group' is unknown; choose from"),
        ({"score": "sigmoid"}, "score='sigmoid' is unknown; choose from"),
        ({"output_norm": "rms"}, "output_norm='rms' is unknown; choose from"),
        ({"norm_epsilon": 0.0}, "norm_epsilon=0.0 must be above 0"),
        ({"qk_norm": True, "query_norm": "batch"}, "qk_norm=True and query_norm='batch' both"),
        ({"key_scale": "tiny"}, "key_scale='tiny' is unknown; choose from"),
        ({"qk_norm": True, "query_norm": "rms"}, "both normalise the query"),
    ],
)
def test_impossible_configurations_are_refused(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        replace(CONFIG, **changes)


def test_a_table_of_another_shape_is_refused():
    layer, params, values = random_leaves(CONFIG)
    with pytest.raises(ValueError, match=r"values \(24, 7\) do not fit the memory's table \(25, 7"):
        run(layer, params, values[:-1], random_input())


@pytest.mark.usefixtures("unchecked_shapes")
def test_a_second_table_is_for_experts_only_and_has_the_width_of_the_model():
    layer, params, values = random_leaves(CONFIG)
    spare = jnp.zeros((25, WIDTH))
    with pytest.raises(ValueError, match=r"expert_inputs \(25, 4\) do not fit experts=False"):
        run(layer, params, values, random_input(), spare)
    experts, params, values = random_leaves(replace(CONFIG, experts=True))
    for inputs in (None, spare[:, :-1]):
        with pytest.raises(ValueError, match=r"do not fit experts=True, which needs \(25, 4\)"):
            run(experts, params, values, random_input(), inputs)
    with pytest.raises(ValueError, match="experts=True needs the width of their input"):
        MemoryPool(experts.config).init(jax.random.key(0))


def test_the_pool_of_experts_has_two_tables():
    config = replace(CONFIG, keys_per_half=40, experts=True)
    tables = cast(Any, MemoryPool(config, 9).init(jax.random.key(0)))["params"]
    assert {name: table.shape for name, table in tables.items()} == {
        "values": (1600, 7),
        "expert_inputs": (1600, 9),
    }
    assert np.std(tables["expert_inputs"]) == pytest.approx(9**-0.5, rel=0.03)
    assert "expert_inputs" not in MemoryPool(CONFIG, 9).init(jax.random.key(0))["params"]
