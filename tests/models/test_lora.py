from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.models.decoder import Decoder
from smf_jax.models.lora import apply_lora, init_lora, merge_lora
from smf_jax.params import flatten
from tests.models.tiny import PLAIN, random_params, random_tokens, with_memory

CONFIG = replace(with_memory("add", (0,)), layers=1)
PARAMS = random_params(CONFIG)
TOKENS = random_tokens(CONFIG, (2, 7))
ALPHA = 6.0


@partial(jax.jit, static_argnums=0)
def adapted(config, params, adapters, tokens):
    with apply_lora(adapters, ALPHA):
        return Decoder(config).apply({"params": params}, tokens)


@jax.jit
def plain(params, tokens):
    return Decoder(CONFIG).apply({"params": params}, tokens)


def random_adapters(targets=("query", "value", "down")) -> dict[str, jax.Array]:
    adapters = init_lora(PARAMS, 3, targets, jax.random.key(0))
    rng = np.random.default_rng(0)
    return {
        path: jnp.asarray(0.2 * rng.standard_normal(leaf.shape), jnp.float32)
        for path, leaf in adapters.items()
    }


def test_adapters_by_path():
    adapters = init_lora(PARAMS, 3, ("query", "up"), jax.random.key(0))
    assert {path: leaf.shape for path, leaf in adapters.items()} == {
        "layers_0/attention/query/a": (16, 3),
        "layers_0/attention/query/b": (3, 24),
        "layers_0/feed_forward/up/a": (16, 3),
        "layers_0/feed_forward/up/b": (3, 20),
    }


def test_fresh_adapters_change_no_bit():
    adapters = init_lora(PARAMS, 2, ("query", "key", "value", "output"), jax.random.key(0))
    assert all(np.abs(leaf).max() > 0 for path, leaf in adapters.items() if path.endswith("/a"))
    np.testing.assert_array_equal(adapted(CONFIG, PARAMS, adapters, TOKENS), plain(PARAMS, TOKENS))


@pytest.mark.parametrize("remat", [False, True])
def test_merged_model_equals_the_adapted_one(remat):
    adapters = random_adapters()
    found = adapted(replace(CONFIG, remat=remat), PARAMS, adapters, TOKENS)
    expected = plain(merge_lora(PARAMS, adapters, ALPHA), TOKENS)
    np.testing.assert_allclose(found, expected, atol=5e-6)
    assert np.abs(expected - plain(PARAMS, TOKENS)).max() > 0.1


def test_gradients_agree_with_those_through_the_merged_model():
    adapters = random_adapters()
    remat = replace(CONFIG, remat=True)

    @jax.jit
    @jax.grad
    def through_adapted(adapters):
        return jnp.mean(adapted(remat, PARAMS, adapters, TOKENS)[..., 0] ** 2)

    @jax.jit
    @jax.grad
    def through_merged(adapters):
        return jnp.mean(plain(merge_lora(PARAMS, adapters, ALPHA), TOKENS)[..., 0] ** 2)

    found, expected = through_adapted(adapters), through_merged(adapters)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), found, expected)
    assert all(np.abs(leaf).max() > 1e-4 for leaf in expected.values())


def test_merging_shares_the_leaves_it_leaves_alone():
    before = flatten(PARAMS)
    after = flatten(merge_lora(PARAMS, random_adapters(("query",)), ALPHA))
    changed = {path for path in before if after[path] is not before[path]}
    assert changed == {"layers_0/attention/query/kernel"}


@pytest.mark.parametrize(
    ("rank", "targets", "message"),
    [
        (2, ("query", "embedding"), r"targets=\('query', 'embedding'\) must name linear maps"),
        (2, (), r"targets=\(\) must name linear maps among"),
        (0, ("query",), "rank=0 does not fit layers_0/attention/query of 16 to 24"),
        (17, ("query",), "choose 1 to 16"),
    ],
)
def test_impossible_adapters_are_refused(rank, targets, message):
    with pytest.raises(ValueError, match=message):
        init_lora(PARAMS, rank, targets, jax.random.key(0))


def test_adapters_of_another_model_are_refused():
    adapters = random_adapters(("query",)) | {
        "layers_9/attention/query/a": jnp.zeros((16, 3)),
        "layers_9/attention/query/b": jnp.zeros((3, 24)),
    }
    with pytest.raises(ValueError, match=r"adapters of \['layers_9/attention/query'\] were not"):
        adapted(CONFIG, PARAMS, adapters, TOKENS)
    with pytest.raises(ValueError, match="the adapter of layers_9/attention/query fits no"):
        merge_lora(PARAMS, adapters, ALPHA)


def test_a_model_traced_outside_of_the_context_is_noticed():
    plain(PARAMS, TOKENS)
    with (
        pytest.raises(ValueError, match="inside the jitted function"),
        apply_lora(random_adapters(), ALPHA),
    ):
        plain(PARAMS, TOKENS)


def test_an_error_inside_the_context_is_not_hidden():
    with (
        pytest.raises(ValueError, match="exceed max_positions"),
        apply_lora(random_adapters(), ALPHA),
    ):
        Decoder(PLAIN).apply({"params": PARAMS}, np.zeros((1, 99), np.int32))
