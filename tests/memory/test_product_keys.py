"""Product-key lookup: exact against all N slots, its tie rule, its gradients, its cost."""

from __future__ import annotations

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.memory.product_keys import product_key_lookup, read_weights
from tests import oracles

lookup = jax.jit(product_key_lookup, static_argnames="k")


def random_case(t, h, n, c, seed=0, dtype: type = np.float32):
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((t, h, 2, c)).astype(dtype),
        rng.standard_normal((h, 2, n, c)).astype(dtype),
    )


SHAPES = [(7, 4, 16, 4, 4), (3, 1, 9, 3, 5), (5, 2, 4, 2, 4), (6, 3, 12, 1, 1), (2, 2, 33, 5, 32)]


@pytest.mark.parametrize(("t", "h", "n", "c", "k"), SHAPES)
def test_finds_the_best_of_all_slots(t, h, n, c, k):
    queries, keys = random_case(t, h, n, c)
    found = lookup(queries, keys, k)
    truth = oracles.brute_force_lookup(queries, keys, k)
    assert found.scores.dtype == jnp.float32 and found.slots.dtype == jnp.int32
    np.testing.assert_allclose(found.scores, truth.scores, rtol=0, atol=2e-6 * 10)
    clear = truth.gap > 1e-4
    assert clear.mean() > 0.8
    np.testing.assert_array_equal(np.asarray(found.slots)[clear], truth.slots[clear])


@pytest.mark.parametrize(("t", "h", "n", "c", "k"), SHAPES)
@pytest.mark.parametrize("largest", [1, 2])
def test_ties_go_to_the_lower_place_in_the_list_of_pairs(t, h, n, c, k, largest):
    # Small integers: every score is exact and most of them tie.
    rng = np.random.default_rng(largest)
    queries = rng.integers(-1, 2, (t, h, 2, c)).astype(np.float32)
    keys = rng.integers(-largest, largest + 1, (h, 2, n, c)).astype(np.float32)
    found = lookup(queries, keys, k)
    truth = oracles.product_form_lookup(queries, keys, k)
    np.testing.assert_array_equal(found.slots, truth.slots)
    np.testing.assert_array_equal(found.scores, truth.scores)


def test_where_all_scores_tie_the_first_row_of_pairs_wins():
    found = lookup(np.zeros((2, 1, 2, 3), np.float32), np.ones((1, 2, 7, 3), np.float32), 5)
    assert found.slots.tolist() == [[[0, 1, 2, 3, 4]]] * 2


def test_a_bfloat16_model_routes_as_its_numbers_in_float32_do():
    queries, keys = random_case(40, 2, 32, 8)
    narrow = jnp.asarray(queries, jnp.bfloat16), jnp.asarray(keys, jnp.bfloat16)
    found = lookup(*narrow, 8)
    truth = lookup(*(a.astype(jnp.float32) for a in narrow), 8)
    assert found.scores.dtype == jnp.float32
    jax.tree.map(np.testing.assert_array_equal, found, truth)
    assert len(np.unique(found.scores[0, 0])) == 8, "scores must not be rounded to bfloat16"


def test_scores_of_a_float64_model_are_float64():
    with jax.enable_x64(True):
        queries, keys = random_case(4, 2, 8, 4, dtype=np.float64)
        found = lookup(queries, keys, 3)
        truth = oracles.brute_force_lookup(queries, keys, 3)
        np.testing.assert_allclose(found.scores, truth.scores, rtol=0, atol=1e-14)
        np.testing.assert_array_equal(found.slots, truth.slots)


def test_gradients_of_scores_reach_queries_and_keys():
    queries, keys = random_case(5, 2, 9, 3)
    cotangent = np.random.default_rng(1).standard_normal((5, 2, 4)).astype(np.float32)

    def total(queries, keys):
        return jnp.sum(product_key_lookup(queries, keys, 4).scores * cotangent)

    from_jax = jax.jit(jax.grad(total, argnums=(0, 1)))(queries, keys)
    slots = oracles.brute_force_lookup(queries, keys, 4).slots
    of_queries, of_keys = np.zeros(queries.shape), np.zeros(keys.shape)
    for half, chosen in enumerate((slots // 9, slots % 9)):
        for t, h, r in np.ndindex(slots.shape):
            g, key = cotangent[t, h, r].astype(np.float64), chosen[t, h, r]
            of_queries[t, h, half] += g * keys[h, half, key]
            of_keys[h, half, key] += g * queries[t, h, half]
    np.testing.assert_allclose(from_jax[0], of_queries, rtol=0, atol=1e-5)
    np.testing.assert_allclose(from_jax[1], of_keys, rtol=0, atol=1e-5)


@pytest.mark.parametrize("differentiated", [False, True])
def test_the_compiled_lookup_sorts_nothing(differentiated):
    function = partial(product_key_lookup, k=8)
    if differentiated:
        function = jax.grad(lambda q, keys: jnp.sum(product_key_lookup(q, keys, 8).scores), (0, 1))
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in [(64, 4, 2, 16), (4, 2, 128, 16)]]
    text = jax.jit(function).lower(*shapes).compile().as_text()
    assert text is not None
    assert not re.search(r"\bsort\(", text)
    assert "best_slots" in text or "TopK" in text


@pytest.mark.parametrize("score", ["softmax", "relu"])
def test_read_weights(score):
    scores = np.random.default_rng(0).standard_normal((3, 2, 5)).astype(np.float32)
    weights = read_weights(jnp.asarray(scores), score)
    exponentials = np.exp(scores.astype(np.float64))
    truth = {
        "softmax": exponentials / exponentials.sum(-1, keepdims=True),
        "relu": np.maximum(scores, 0),
    }
    np.testing.assert_allclose(weights, truth[score], rtol=1e-6)


@pytest.mark.parametrize("k", [0, -1, 9])
def test_more_reads_than_keys_are_refused(k):
    queries, keys = map(jnp.asarray, random_case(2, 1, 8, 3))
    with pytest.raises(ValueError, match=rf"k={k} reads per head need 1 <= k <= n=8 .* lower k"):
        product_key_lookup(queries, keys, k)


@pytest.mark.parametrize(
    ("queries", "keys"),
    [
        ((2, 3, 2, 4), (1, 2, 8, 4)),
        ((2, 3, 2, 4), (3, 2, 8, 5)),
        ((2, 3, 1, 4), (3, 2, 8, 4)),
        ((2, 3, 2, 4), (3, 1, 8, 4)),
        ((2, 3, 2, 4), (3, 2, 8)),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_shapes_that_do_not_fit_are_named(queries, keys):
    with pytest.raises(ValueError) as error:
        product_key_lookup(jnp.zeros(queries), jnp.zeros(keys), 2)
    assert str(queries) in str(error.value) and str(keys) in str(error.value)


def test_an_unknown_weighting_is_refused():
    with pytest.raises(ValueError, match="score='sigmoid' is unknown; expected 'softmax' or"):
        read_weights(jnp.zeros((1, 1, 2)), "sigmoid")  # pyright: ignore[reportArgumentType]


def test_no_tokens_find_nothing():
    found = lookup(np.zeros((0, 2, 2, 3), np.float32), np.ones((2, 2, 7, 3), np.float32), 5)
    assert found.scores.shape == found.slots.shape == (0, 2, 5)


def test_in_shard_map_every_device_looks_up_its_own():
    queries, keys = random_case(8, 2, 16, 4)
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:4]), ("d",))
    specs = {"in_specs": (jax.P("d"), jax.P()), "out_specs": jax.P("d")}
    find = jax.shard_map(partial(product_key_lookup, k=4), mesh=mesh, **specs)
    np.testing.assert_array_equal(
        jax.jit(find)(queries, keys).slots, lookup(queries, keys, 4).slots
    )
