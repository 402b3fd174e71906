"""A memory with a hashed router against its formulas; product keys stand in test_layer.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.memory.layer import PERTURBATIONS, READS, MemoryConfig, MemoryLayer
from smf_jax.memory.ngrams import recent_tokens
from smf_jax.params import flatten, unflatten
from tests.memory.test_ngrams import slots_by_formula

CONFIG = MemoryConfig(keys_per_half=7, heads=2, value_width=3, router="ngram", gate="context")
WIDTH, BATCH, TOKENS = 4, 2, 5
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((BATCH, TOKENS, WIDTH)), jnp.float32)
IDS = RNG.integers(0, 50, (BATCH, TOKENS)).astype(np.int32)
RECENT = recent_tokens(jnp.asarray(IDS), jnp.ones(IDS.shape, bool), 3).tokens


def random_layer(config):
    layer = MemoryLayer(config, WIDTH, alpha=0.5)
    values = jnp.asarray(RNG.standard_normal((config.slots, config.value_width)), jnp.float32)
    given = X, values, None, None, RECENT
    shapes = jax.eval_shape(layer.init, jax.random.key(0), *given)["params"]
    params = {
        path: jnp.asarray(RNG.standard_normal(leaf.shape), leaf.dtype)
        for path, leaf in flatten(shapes).items()
    }
    return layer, params, values


def normalised(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_formula(config, params, values):
    """Engram's block (2601.07372, sections 2.2 and 2.3) in float64, token by token."""
    params = {path: np.asarray(leaf, np.float64) for path, leaf in params.items()}
    values, out = np.asarray(values, np.float64), []
    tokens = np.asarray(X, np.float64).reshape(-1, WIDTH)
    for x, recent in zip(tokens, np.asarray(RECENT).reshape(-1, 3), strict=True):
        slots = slots_by_formula(recent.tolist(), config.heads, config.slots)
        rows = values[slots.reshape(-1)]
        e = rows.reshape(-1) if config.join == "concat" else rows.sum(0) / slots.shape[1]
        y = e
        if config.gate == "context":
            query = normalised(x, params["context_norm/scale"])
            key = normalised(e @ params["context_key/kernel"], params["context_key_norm/scale"])
            y = sigmoid(query @ key / np.sqrt(WIDTH)) * (e @ params["output/kernel"])
        elif len(e) != WIDTH:
            y = e @ params["output/kernel"] + params["output/bias"]
        if config.gate == "scalar":
            y = y * sigmoid(x @ params["gate/kernel"] + params["gate/bias"])
        out.append(params["alpha"] * y)
    return np.reshape(out, X.shape)


VARIANTS = {
    "context, sum": {},
    "context, concat": {"join": "concat"},
    "scalar, concat": {"join": "concat", "gate": "scalar"},
    "none, v = d": {"gate": "none", "value_width": WIDTH},
    "none, concat of the model's width": {"gate": "none", "join": "concat", "value_width": 1},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_follows_its_formula(name):
    config = replace(CONFIG, **VARIANTS[name])
    layer, params, values = random_layer(config)
    variables = {"params": unflatten(params)}
    y, sown = jax.jit(
        lambda: layer.apply(variables, X, values, None, None, RECENT, mutable=[READS])
    )()
    read = sown[READS]["read"]
    assert read.slots.shape == read.weights.shape == (BATCH, TOKENS, 2, 2)
    np.testing.assert_allclose(y, by_formula(config, params, values), rtol=1e-5, atol=1e-5)


def test_rows_side_by_side_are_perturbed_one_by_one():
    layer, params, values = random_layer(replace(CONFIG, join="concat"))
    given = X, values, None, None, RECENT
    shapes = jax.eval_shape(
        lambda: layer.apply({"params": unflatten(params)}, *given, mutable=[PERTURBATIONS])[1]
    )
    assert shapes[PERTURBATIONS]["read"].shape == (BATCH, TOKENS, 4, 3)


def test_a_router_has_no_parameters_and_the_hidden_state_no_say():
    layer, params, values = random_layer(CONFIG)
    assert not [path for path in params if path.startswith(("query", "key", "router"))]

    @jax.jit
    def slots(x):
        given = {"params": unflatten(params)}, x, values, None, None, RECENT
        sown: Any = layer.apply(*given, mutable=[READS])[1][READS]
        return sown["read"].slots

    np.testing.assert_array_equal(slots(X), slots(X + 1))


def test_a_layer_without_ids_says_what_to_give():
    layer, params, values = random_layer(CONFIG)
    for recent in (None, RECENT[..., :2]):
        with pytest.raises(ValueError, match="max_ngram=3; give the layer recent=recent_tokens"):
            layer.apply({"params": unflatten(params)}, X, values, None, None, recent)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"max_ngram": 1}, "max_ngram=1 must be 2 to 16"),
        ({"experts": True}, "experts=True with router='ngram'"),
        ({"keys_per_half": 1}, "makes 1 slots, fewer than the 4 parts"),
        ({"router": "product_keys", "reads": 4, "join": "concat"}, "join='concat' with router="),
        ({"router": "bigram", "reads": 4}, "router='bigram' is unknown"),
    ],
)
def test_what_does_not_fit_together_is_refused(wrong, match):
    with pytest.raises(ValueError, match=match):
        replace(CONFIG, **wrong)


def test_rows_side_by_side_share_the_models_width():
    config = replace(CONFIG, value_width=0, join="concat")
    assert config.for_width(12).value_width == 3 and config.for_width(12).read_width == 12
    assert replace(config, join="sum").for_width(12).value_width == 12
    with pytest.raises(ValueError, match="the 4 rows of a token cannot share the model width 6"):
        config.for_width(6)
