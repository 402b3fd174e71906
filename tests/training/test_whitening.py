"""White queries: zero mean, unit covariance on the text, and the same model around them."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.data.batching import Batch
from smf_jax.memory.layer import MemoryConfig
from smf_jax.models.config import MemoryPlacement, ModelConfig
from smf_jax.models.decoder import Decoder, init_params
from smf_jax.params import flatten, is_pool, unflatten
from smf_jax.tables import put
from smf_jax.training import whitening
from smf_jax.training.reads import read_counts
from smf_jax.training.whitening import whiten_queries

MEMORY = MemoryConfig(keys_per_half=16, heads=2, reads=2, key_width=8, value_width=16, qk_norm=True)
CONFIG = ModelConfig(
    "llama", 32, 16, 3, 2, 2, 8, 24, tied=True, memory=MemoryPlacement((0, 2), "pretrain", MEMORY)
)


def batch() -> Batch:
    rng = np.random.default_rng(0)
    # A skewed vocabulary, as that of text: few words make up most of it.
    tokens = np.minimum(rng.geometric(0.2, (100, 12)), 31).astype(np.int32)
    valid = np.arange(12)[None] < rng.integers(4, 13, 100)[:, None]
    return Batch(tokens, tokens, valid.astype(np.float32), valid)


@pytest.fixture(scope="module")
def params():
    return flatten(init_params(CONFIG, jax.random.key(0)))


def projected(model, params, text, layer):
    """The projected queries of the tokens that are no pads, ``(t, q)``."""
    _, caught = jax.jit(
        partial(
            model.apply,
            capture_intermediates=lambda module, _: module.name == "query",
            mutable=["intermediates"],
        )
    )({"params": unflatten(params)}, text.tokens, text.valid)
    queries = caught["intermediates"]["memory"][f"layer_{layer}"]["query"]["__call__"][0]
    return np.asarray(queries)[text.valid.reshape(-1)]


def test_queries_are_white_per_head_and_half(params):
    model, text = Decoder(CONFIG), batch()
    white = whiten_queries(model, params, text)
    for layer in (0, 2):
        queries = projected(model, white, text, layer).reshape(-1, 4, 4)
        assert len(queries) == text.valid.sum()
        np.testing.assert_allclose(queries.mean(0), 0, atol=1e-4)
        for group in range(4):
            # The floor shrinks the weakest directions a little.
            values = np.linalg.eigvalsh(np.cov(queries[:, group].T, bias=True))
            assert values.max() < 1.001 and values.min() > 0.5


def test_nothing_but_the_queries_changes(params):
    white = whiten_queries(Decoder(CONFIG), params, batch())
    changed = {path for path in params if not np.array_equal(params[path], white[path])}
    assert white.keys() == params.keys()
    assert changed == {
        f"memory/layer_{layer}/query/{leaf}" for layer in (0, 2) for leaf in ("kernel", "bias")
    }


def test_text_uses_more_of_the_table(params):
    model, text = Decoder(CONFIG), batch()

    def used(params) -> int:
        return sum(int(jnp.sum(c > 0)) for c in read_counts(model, params, text).values())

    assert used(whiten_queries(model, params, text)) > used(params)


def test_query_batch_norm_starts_over_with_the_statistics_of_white_queries():
    memory = dataclasses.replace(MEMORY, qk_norm=False, query_norm="batch")
    config = dataclasses.replace(CONFIG, memory=MemoryPlacement((0,), "pretrain", memory))
    params = flatten(init_params(config, jax.random.key(0)))
    norm = "memory/layer_0/query_norm"
    params |= {f"{norm}/{name}": params[f"{norm}/{name}"] + 3 for name in ("mean", "variance")}
    white = whiten_queries(Decoder(config), params, batch())
    assert not np.any(white[f"{norm}/mean"]) and np.all(white[f"{norm}/variance"] == 1)


def test_models_without_such_queries_are_refused(params):
    plain = dataclasses.replace(CONFIG, memory=None)
    with pytest.raises(ValueError, match="no memory, so it has no queries"):
        whiten_queries(Decoder(plain), params, batch())
    memory = dataclasses.replace(MEMORY, query_bias=False)
    unbiased = dataclasses.replace(CONFIG, memory=MemoryPlacement((0, 2), "pretrain", memory))
    with pytest.raises(ValueError, match="query_bias=False"):
        whiten_queries(Decoder(unbiased), params, batch())


def test_memories_that_give_nothing_yet_are_whitened_by_one_pass(monkeypatch):
    """As one after the other, where what is read is zero; else each sees those below it."""
    placement = MemoryPlacement((0, 2), "add", MEMORY, init_rows="zero")
    config = dataclasses.replace(CONFIG, memory=placement)
    params, text = flatten(init_params(config, jax.random.key(0))), batch()
    passes, projected = [], whitening._projected

    def counted(*given):
        passes.append(tuple(given[-1]))
        return projected(*given)

    monkeypatch.setattr(whitening, "_projected", counted)
    white = whiten_queries(Decoder(config), params, text)
    assert passes.pop() == (0, 2) and not passes
    # The same tables with a row each are no longer empty: every layer is run by itself.
    written = {
        path: put(leaf, jnp.array([3]), jnp.ones((1, 16))) if is_pool(path) else leaf
        for path, leaf in params.items()
    }
    moved = whiten_queries(Decoder(config), written, text)
    assert passes == [(0,), (2,)]
    monkeypatch.setattr(whitening, "_independent", lambda layers, params: [(0,), (2,)])
    alone = whiten_queries(Decoder(config), params, text)
    for layer in (0, 2):
        path = f"memory/layer_{layer}/query/kernel"
        np.testing.assert_allclose(white[path], alone[path], rtol=1e-5, atol=1e-6)
        # What the lower memory gives moves the queries of the higher one, and not its own.
        assert np.allclose(moved[path], alone[path], rtol=1e-4, atol=1e-5) == (layer == 0)
