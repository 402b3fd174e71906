"""The price of leaving the base's predictions: its formula, its tokens, its parts of a batch."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.models.decoder import Decoder, plain_logits
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training import kl
from smf_jax.training.dense_step import text_loss
from smf_jax.training.kl import kl_to_base, kl_trainer, priced
from smf_jax.training.trainers import dense_trainer, lora_trainer
from tests.training import tiny

MODEL = tiny.model_config()
DECODER = Decoder(MODEL)
SGD = OptimizerConfig("sgd")
LOGITS = jax.jit(plain_logits(DECODER))


@cache
def run(method="full", weight=1.0, on: kl.KlTokens = "both", text_rows=1) -> tiny.Run:
    if method == "full":
        learner = dense_trainer(DECODER, SGD)
    else:
        learner = lora_trainer(DECODER, SGD, 2, 4.0, ("query", "value"))
    if weight < 0:
        return tiny.Run(learner, MODEL, with_usage=False)
    held = kl_trainer(DECODER, SGD, learner, weight, on, text_rows)
    return tiny.Run(held, MODEL, with_usage=False)


def taught(of: tiny.Run, steps: int = 4, rate: float = 0.3):
    state, metrics = of.step(of.start(), tiny.batch(0), tiny.settings(rate))
    for seed in range(1, steps):
        state, metrics = of.step(state, tiny.batch(seed), tiny.settings(rate))
    return state, metrics


def divergence(of: tiny.Run, state, batch) -> np.ndarray:
    now = jax.jit(of.trainer.logits)(of.shared, state, batch.tokens, batch.valid)
    return np.asarray(kl_to_base(LOGITS(of.base, batch.tokens, batch.valid), now))


def test_the_divergence_is_that_of_the_base_from_now():
    rng = np.random.default_rng(0)
    base, now = rng.normal(size=(2, 1, 2, 5))
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (base, now))
    expected = np.sum(p * np.log(p / q), axis=-1)
    np.testing.assert_allclose(kl_to_base(base, now), expected, rtol=1e-5)
    np.testing.assert_allclose(kl_to_base(base, base), np.zeros((1, 2)), atol=1e-6)


@pytest.mark.parametrize(("on", "rows"), [("batch", [0, 1]), ("text", [2]), ("both", [0, 1, 2])])
def test_each_term_has_the_tokens_it_is_asked_of(on, rows):
    batch = tiny.batch()
    found = priced(batch, 3.0, on, text_rows=1)
    learned = batch.weights * [[1], [1], [0]]
    np.testing.assert_allclose(found.of_loss, learned / learned.sum(), rtol=1e-6)
    asked = np.isin(np.arange(3), rows)[:, None] & batch.valid
    np.testing.assert_allclose(found.of_kl, 3 * asked / asked.sum(), rtol=1e-6)
    np.testing.assert_allclose(found.weights, found.of_loss + found.of_kl)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_loss_is_that_of_the_facts_and_the_weighted_mean_divergence(method):
    of, batch = run(method, 2.0), tiny.batch(7)
    state, _ = taught(of)
    _, metrics = of.step(state, batch, tiny.settings(0.0))
    facts = type(batch)(*(field[:2] for field in batch))

    def logits(_, *asked):
        return jax.jit(of.trainer.logits)(of.shared, state, *asked)

    plain, _ = text_loss(logits)({}, facts)
    expected = plain + 2 * divergence(of, state, batch)[batch.valid].mean()
    assert metrics.loss == pytest.approx(float(expected), rel=1e-5)


def test_parts_of_a_batch_give_the_step_of_the_whole(monkeypatch):
    whole, one = taught(run("full", 2.0))
    monkeypatch.setattr(kl, "MOST_BYTES", 1)  # a row at a time
    run.cache_clear()
    parts, other = taught(run("full", 2.0))
    run.cache_clear()
    assert one.loss == pytest.approx(float(other.loss), rel=1e-5)
    for path, leaf in whole.params.items():
        np.testing.assert_allclose(parts.params[path], leaf, rtol=1e-4, atol=1e-6)


def test_without_a_price_it_is_the_method_itself():
    held, _ = taught(run("full", 0.0, "batch", 0))
    free, _ = taught(run("full", -1.0))
    for path, leaf in free.params.items():
        np.testing.assert_allclose(held.params[path], leaf, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_dearer_the_nearer_to_what_the_base_predicts(method):
    probe, far = tiny.batch(3), []
    for weight in (0.0, 5.0):
        of = run(method, weight)
        far.append(divergence(of, taught(of)[0], probe)[probe.valid].mean())
    assert 0 < far[1] < 0.7 * far[0]


def test_the_base_is_the_one_that_is_shared_and_never_changes():
    of = run("full")
    assert all(of.shared.frozen[path] is leaf for path, leaf in of.base.items())
    state, _ = taught(of)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, of.shared.frozen, tiny.params(MODEL)))
    assert any(not np.array_equal(state.params[p], of.base[p]) for p in state.params)
