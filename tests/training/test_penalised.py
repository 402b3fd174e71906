"""Quadratic prices on moving away: their formulas, what they hold back, what a resume needs."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.data.batching import Batch
from smf_jax.losses import token_losses
from smf_jax.models.decoder import Decoder, plain_logits
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.penalised import fisher, penalised_trainer, price
from smf_jax.training.trainers import dense_trainer
from tests.training import tiny

MODEL = tiny.model_config()
SGD = OptimizerConfig("sgd")
LOGITS = plain_logits(Decoder(MODEL))
STRENGTH = 10.0


@cache
def run(strength: float, by_fisher: bool = False) -> tiny.Run:
    trainer = penalised_trainer(Decoder(MODEL), SGD, strength, by_fisher=by_fisher)
    return tiny.Run(trainer, MODEL, with_usage=False)


@cache
def full() -> tiny.Run:
    return tiny.Run(dense_trainer(Decoder(MODEL), SGD), MODEL, with_usage=False)


def taught(of: tiny.Run, state, steps: int = 3, rate: float = 0.1):
    for seed in range(steps):
        state, _ = of.step(state, tiny.batch(seed), tiny.settings(rate))
    return state


def moved(params, start) -> float:
    return float(np.sqrt(sum(np.sum(np.square(params[p] - start[p])) for p in start)))


@pytest.fixture(scope="module")
def ended():
    """EWC after its first task."""
    held = run(STRENGTH, by_fisher=True)
    end_task, unused = held.trainer.end_task, cast(Any, None)
    assert end_task is not None
    end = jax.jit(lambda state: end_task(held.shared, state, tiny.batches(2), unused))
    return end(taught(held, held.start()))


def test_the_price_is_half_the_weighted_sum_of_squares():
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 2), "b": (5,)}
    now, anchor, importance = (
        {name: rng.normal(size=shape) for name, shape in shapes.items()} for _ in range(3)
    )
    plain = 0.5 * sum(np.sum((now[name] - anchor[name]) ** 2) for name in shapes)
    weighted = 0.5 * sum(np.sum(importance[n] * (now[n] - anchor[n]) ** 2) for n in shapes)
    assert price(now, anchor, {}) == pytest.approx(plain, rel=1e-6)
    assert price(now, anchor, importance) == pytest.approx(weighted, rel=1e-6)


def test_without_strength_it_is_full_finetuning():
    ours, theirs = (taught(of, of.start()).params for of in (run(0.0), full()))
    for path, leaf in theirs.items():
        np.testing.assert_allclose(ours[path], leaf, rtol=1e-6, atol=1e-7)


def test_the_stronger_the_price_the_less_is_moved():
    ways = [run(strength) for strength in (0.0, 1.0, 4.0)]
    far = [moved(taught(way, way.start(), steps=6).params, way.base) for way in ways]
    assert far[0] > 1.05 * far[1] and far[1] > 1.05 * far[2] and far[2] > 0


def test_the_fisher_is_the_mean_of_squared_gradients_of_single_rows():
    base, batch = tiny.params(MODEL), tiny.batch()
    nothing = Batch(*(np.zeros_like(field) for field in batch))
    examples = Batch(*(np.stack(pair) for pair in zip(batch, nothing, strict=True)))
    found = jax.jit(lambda params: fisher(LOGITS, params, {}, examples))(base)

    @jax.jit
    def gradient(params, row):
        def nll(params):
            one = Batch(*(jnp.asarray(field)[row][None] for field in batch))
            losses = token_losses(LOGITS(params, one.tokens, one.valid), one.targets)
            return jnp.sum(jnp.where(one.weights > 0, losses * one.weights, 0))

        return jax.grad(nll)(params)

    rows = [row for row in range(len(batch.tokens)) if np.any(batch.weights[row] > 0)]
    each = [gradient(base, row) for row in rows]
    for path in base:
        expected = np.mean([np.square(gradients[path]) for gradients in each], axis=0)
        np.testing.assert_allclose(found[path], expected, rtol=1e-4, atol=1e-8)


def test_ewc_costs_nothing_in_the_first_task():
    held = run(STRENGTH, by_fisher=True)
    for path, leaf in taught(full(), full().start()).params.items():
        found = taught(held, held.start()).params[path]
        np.testing.assert_allclose(found, leaf, rtol=1e-6, atol=1e-7)


def test_ewc_holds_what_the_first_task_needed_in_the_second(ended):
    for path, leaf in ended.params.items():
        assert np.array_equal(ended.anchor[path], leaf)
    assert any(np.any(leaf > 0) for leaf in ended.importance.values())
    held = taught(run(STRENGTH, by_fisher=True), ended, steps=6, rate=0.01).params
    free = taught(full(), ended.dense, steps=6, rate=0.01).params

    def cost(params) -> float:
        return float(price(params, ended.anchor, ended.importance))

    assert cost(held) < 0.8 * cost(free)


def test_a_resume_goes_on_from_what_was_carried(ended):
    held = run(STRENGTH, by_fisher=True)
    saved = {**held.trainer.trained(ended), **held.trainer.carried(ended)}
    again = held.trainer.resume(held.start(), saved)
    for name in ("params", "anchor", "importance"):
        jax.tree.map(np.testing.assert_array_equal, getattr(again, name), getattr(ended, name))


def test_l2_to_init_carries_nothing_and_keeps_the_base_as_its_anchor():
    way = run(1.0)
    assert way.trainer.end_task is None and way.trainer.carried(way.start()) == {}
    state = taught(way, way.start())
    again = way.trainer.resume(way.start(), way.trainer.trained(state))
    jax.tree.map(np.testing.assert_array_equal, again.anchor, way.base)
