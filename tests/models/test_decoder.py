from dataclasses import replace
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.memory.layer import PERTURBATIONS, READS
from smf_jax.models.attention import empty_cache, rotation
from smf_jax.models.decoder import Decoder, init_params
from smf_jax.params import flatten
from tests.models.tiny import MEMORY, PLAIN, random_params, random_tokens, with_memory

ADD = with_memory("add", (0, 1), shared_pool=True)


@partial(jax.jit, static_argnums=0)
def logits(config, params, tokens, valid=None):
    return Decoder(config).apply({"params": params}, tokens, valid)


def test_parameter_tree():
    """The public contract: checkpoints and patches speak in these paths."""
    config = replace(with_memory("add", (1,)), query_key_norm=True, attention_bias=True)
    flat = flatten(random_params(config))
    block = [
        "attention/key/bias",
        "attention/key/kernel",
        "attention/key_norm/scale",
        "attention/output/kernel",
        "attention/query/bias",
        "attention/query/kernel",
        "attention/query_norm/scale",
        "attention/value/bias",
        "attention/value/kernel",
        "attention_norm/scale",
        "feed_forward/down/kernel",
        "feed_forward/gate/kernel",
        "feed_forward/up/kernel",
        "feed_forward_norm/scale",
    ]
    memory = [
        "alpha",
        "gate/bias",
        "gate/kernel",
        "keys",
        "output/bias",
        "output/kernel",
        "query/bias",
        "query/kernel",
        "query_norm/scale",
    ]
    assert list(flat) == [
        "embedder/embedding",
        "final_norm/scale",
        "head/kernel",
        *(f"layers_0/{path}" for path in block),
        *(f"layers_1/{path}" for path in block),
        *(f"memory/layer_1/{path}" for path in memory),
        "memory/pool_1/values",
    ]
    assert flat["layers_0/attention/query/kernel"].shape == (16, 24)
    assert flat["layers_0/attention/key/kernel"].shape == (16, 12)
    assert flat["memory/pool_1/values"].shape == (36, 10)


def test_init_returns_parameters_only():
    config = replace(with_memory("replace", (0,)), layers=1, tied=True)
    params = init_params(config, jax.random.key(0))
    assert jax.tree.structure(params) == jax.tree.structure(random_params(config))
    assert "feed_forward" not in params["layers_0"]
    again = init_params(config, jax.random.key(1))["embedder"]["embedding"]
    assert not np.array_equal(params["embedder"]["embedding"], again)


def test_the_future_changes_nothing():
    params, tokens = random_params(ADD), random_tokens(ADD, (2, 12))
    changed = tokens.copy()
    changed[:, 8] = (changed[:, 8] + 1) % ADD.vocabulary
    before, after = logits(ADD, params, tokens), logits(ADD, params, changed)
    np.testing.assert_array_equal(before[:, :8], after[:, :8])
    assert np.abs(before[:, 8:] - after[:, 8:]).min(axis=(0, 2)).max() > 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_pads_change_nothing(side):
    params, tokens = random_params(ADD), random_tokens(ADD, (2, 9))
    padding = ((0, 0), (4, 0) if side == "left" else (0, 4))
    padded = np.pad(tokens, padding, constant_values=ADD.vocabulary)  # any id will do for a pad
    valid = np.pad(np.ones(tokens.shape, bool), padding)
    found = np.asarray(logits(ADD, params, padded, valid))
    assert np.isfinite(found).all()
    found = found[:, 4:] if side == "left" else found[:, :9]
    np.testing.assert_allclose(found, logits(ADD, params, tokens), atol=2e-6)


def test_only_distances_between_positions_matter():
    params, tokens = random_params(ADD), random_tokens(ADD, (2, 12))
    positions = np.arange(12)[None].repeat(2, axis=0)
    apply = jax.jit(Decoder(ADD).apply)
    shifted, stretched = (
        apply({"params": params}, tokens, None, where) for where in (positions + 7, 2 * positions)
    )
    expected = logits(ADD, params, tokens)
    np.testing.assert_allclose(shifted, expected, atol=5e-6)
    assert np.abs(stretched - expected).max() > 1e-2


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_block_joins_feed_forward_and_memory(mode):
    """One block by its parts: x + ffn(u) + α·memory(u), and without ffn where it is replaced."""
    config = replace(with_memory(mode, (0,)), layers=1)
    params, tokens = random_params(config), random_tokens(config, (2, 5))
    model = Decoder(config)

    def parts(model):
        x = model.embedder(jnp.asarray(tokens))
        valid = jnp.ones(tokens.shape, bool)
        mask = jnp.tril(jnp.ones((5, 5), bool))[None].repeat(2, axis=0)
        turned = rotation(config, jnp.arange(5)[None].repeat(2, axis=0))
        block = model.layers[0]
        x, _ = block.attend(x, turned, mask, None)
        u = block.normalise(x)
        fed = block.feed(u) if mode == "add" else 0.0
        return model.logits(model.final_norm(x + fed + model.memory(0, u, valid, None)))

    expected = jax.jit(partial(model.apply, method=parts))({"params": params})
    np.testing.assert_allclose(logits(config, params, tokens), expected, atol=2e-6)
    params["memory"]["pool_0"]["values"] *= 2
    assert np.abs(logits(config, params, tokens) - expected).max() > 1e-2


def test_alpha_zero_gives_the_base_bit_for_bit():
    params, tokens = random_params(ADD), random_tokens(ADD, (2, 12))
    base = {name: leaf for name, leaf in params.items() if name != "memory"}
    for layer in ("layer_0", "layer_1"):
        params["memory"][layer]["alpha"] = jnp.zeros(())
    expected = logits(replace(ADD, memory=None), base, tokens)
    np.testing.assert_array_equal(logits(ADD, params, tokens), expected)
    params["memory"]["layer_1"]["alpha"] = jnp.ones(())
    assert np.abs(logits(ADD, params, tokens) - expected).max() > 1e-2


def test_remat_changes_neither_values_nor_gradients_nor_reads():
    config = replace(with_memory("add", (0,)), layers=1)
    params, tokens = random_params(config), random_tokens(config, (2, 8))
    zeros = {"memory": {"layer_0": {"read": jnp.zeros((2, 8, 10))}}}

    @partial(jax.jit, static_argnums=0)
    def run(config, params, perturbations):
        def loss(params, perturbations):
            variables = {"params": params, PERTURBATIONS: perturbations}
            found, reads = Decoder(config).apply(variables, tokens, mutable=[READS])
            return jnp.mean(jax.nn.logsumexp(found, axis=-1)), reads

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, perturbations)

    plain = run(config, params, zeros)
    rematerialised = run(replace(config, remat=True), params, zeros)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), rematerialised, plain)
    (_, reads), (_, cotangents) = plain
    assert reads[READS]["memory"]["layer_0"]["read"].slots.shape == (2, 8, 2, 3)
    assert np.abs(cotangents["memory"]["layer_0"]["read"]).max() > 0


def test_every_layer_of_a_shared_pool_has_reads_and_a_cotangent_of_its_own():
    params, tokens = random_params(ADD), random_tokens(ADD, (2, 12))

    def trace(params):
        return Decoder(ADD).apply({"params": params}, tokens, mutable=[READS, PERTURBATIONS])[1]

    traced = jax.eval_shape(trace, params)
    assert set(traced[READS]["memory"]) == {"layer_0", "layer_1"}
    assert {
        layer: entry["read"].shape for layer, entry in traced[PERTURBATIONS]["memory"].items()
    } == {"layer_0": (2, 12, 10), "layer_1": (2, 12, 10)}


def test_cache_in_pieces_equals_the_whole():
    params, tokens = random_params(ADD), random_tokens(ADD, (2, 10))
    valid = np.ones(tokens.shape, bool)
    valid[0, :3] = False
    model = Decoder(ADD)
    extend = jax.jit(partial(model.apply, method="extend"))
    cache, pieces = empty_cache(ADD, 2, 11), []
    for start, end in ((0, 5), (5, 10)):
        x, cache = extend({"params": params}, tokens[:, start:end], valid[:, start:end], cache)
        pieces.append(x)
    whole = jax.jit(partial(model.apply, method="features"))({"params": params}, tokens, valid)
    found = np.concatenate(pieces, axis=1)
    np.testing.assert_allclose(found[valid], whole[valid], atol=5e-6)
    assert int(cache.length) == 10


def test_token_outside_the_vocabulary_is_not_guessed():
    config = replace(PLAIN, layers=1)
    found = logits(config, random_params(config), jnp.array([[3, 39], [3, 40]]))
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1, 1]).all()


def test_bfloat16_stays_near_float32():
    params, tokens = random_params(PLAIN), random_tokens(PLAIN, (2, 12))
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    found = logits(replace(PLAIN, dtype="bfloat16"), half, tokens)
    assert found.dtype == jnp.float32
    exact = np.asarray(logits(PLAIN, params, tokens))
    assert 1e-4 < np.abs(found - exact).max() < 0.1 * exact.std() * 4


def test_too_many_tokens_name_the_limit():
    with pytest.raises(ValueError, match="65 tokens exceed max_positions=64"):
        Decoder(PLAIN).apply({"params": random_params(PLAIN)}, np.zeros((1, 65), np.int32))


@pytest.mark.usefixtures("unchecked_shapes")
def test_tokens_without_a_batch_are_refused():
    with pytest.raises(ValueError, match=r"tokens are int32\[5\]; expected integers \(b, t\)"):
        Decoder(PLAIN).apply({"params": random_params(PLAIN)}, np.zeros(5, np.int32))


@pytest.mark.parametrize("config", [PLAIN, ADD], ids=["plain", "with memories"])
def test_sequences_that_share_a_row_do_not_see_each_other(config):
    params, tokens = random_params(config), random_tokens(config, (1, 12))
    lengths = (5, 4, 1)
    segments = np.repeat((1, 2, 3, 0), (*lengths, 2))[None].astype(np.int32)
    together = logits(config, params, tokens, segments)
    start = 0
    for length in lengths:
        own = tokens[:, start : start + length]
        alone = logits(config, params, own)
        np.testing.assert_allclose(together[:, start : start + length], alone, atol=2e-5)
        start += length
    # The mask of one sequence a row says the same as its number.
    valid = np.arange(12)[None] < 9
    of_mask = logits(config, params, tokens, valid)[:, :9]
    of_number = logits(config, params, tokens, valid.astype(np.int32))[:, :9]
    np.testing.assert_allclose(of_number, of_mask, atol=2e-5)


def test_hashed_memory_reads_alike_in_pieces_and_in_packed_rows():
    memory = replace(MEMORY, router="ngram", join="concat", gate="context")
    config = replace(ADD, memory=replace(cast(Any, ADD.memory), memory=memory))
    params, tokens = random_params(config), random_tokens(config, (2, 10))
    valid = np.ones(tokens.shape, bool)
    valid[0, :3] = False
    model = Decoder(config)
    features = jax.jit(partial(model.apply, method="features"))
    whole = features({"params": params}, tokens, valid)
    extend = jax.jit(partial(model.apply, method="extend"))
    cache, pieces = empty_cache(config, 2, 11), []
    for start, end in ((0, 5), (5, 6), (6, 10)):
        x, cache = extend({"params": params}, tokens[:, start:end], valid[:, start:end], cache)
        pieces.append(x)
    found = np.concatenate(pieces, axis=1)
    np.testing.assert_allclose(found[valid], whole[valid], atol=5e-6)
    # Two sequences in one row, neither of which sees the other.
    sequences = np.array([[0, 0, 0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 2, 2, 2, 2, 2, 2]], np.int32)
    packed = features({"params": params}, tokens, sequences)
    alone = features({"params": params}, tokens, sequences == 2)
    np.testing.assert_allclose(packed[1, :4], whole[1, :4], atol=5e-6)
    np.testing.assert_allclose(packed[1, 4:], alone[1, 4:], atol=5e-6)
    assert not np.allclose(packed[1, 4:], whole[1, 4:], atol=1e-3)
