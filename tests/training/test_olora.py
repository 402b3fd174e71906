"""O-LoRA: the overlap it pays for, what of it trains, and how tasks follow each other."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.models.decoder import Decoder, plain_logits
from smf_jax.models.lora import apply_lora
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.olora import joined, olora_trainer, overlap
from smf_jax.training.trainers import lora_trainer
from tests.training import tiny

MODEL = tiny.model_config()
DECODER = Decoder(MODEL)
SGD = OptimizerConfig("sgd")
ADAPTERS = (2, 4.0, ("query", "value"))


@cache
def run(strength: float = 0.0) -> tiny.Run:
    trainer = olora_trainer(DECODER, SGD, *ADAPTERS, strength, tasks=3)
    return tiny.Run(trainer, MODEL, with_usage=False)


def task(of: tiny.Run, state, number: int, steps: int = 3, rate: float = 0.3):
    settings = tiny.settings(rate, seed=number)
    state = of.begin_task(state, tiny.batches(1), settings)
    for seed in range(steps):
        state, _ = of.step(state, tiny.batch(10 * number + seed), settings)
    return state


@pytest.fixture(scope="module")
def two():
    """The states after a first and a second task."""
    of = run()
    first = task(of, of.start(), 0)
    return first, task(of, first, 1)


def test_the_overlap_is_that_of_every_earlier_direction_with_every_own():
    rng = np.random.default_rng(0)
    one, two, own = (jnp.asarray(rng.normal(size=(5, 2)), jnp.float32) for _ in range(3))
    expected = sum(np.sum((a.T @ own) ** 2) for a in (one, two))
    unused = jnp.ones((4, 3))
    earlier = {"m/a": jnp.concatenate([one, two], axis=1), "m/b": unused}
    found = overlap(earlier, {"m/a": own, "m/b": unused})
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_the_first_task_is_that_of_lora(two):
    of = tiny.Run(lora_trainer(DECODER, SGD, *ADAPTERS), MODEL, with_usage=False)
    state = of.start(tiny.settings(seed=0))
    for seed in range(3):
        state, _ = of.step(state, tiny.batch(seed), tiny.settings(0.3))
    for path, leaf in state.params.items():
        np.testing.assert_allclose(two[0].params[path], leaf, rtol=1e-5, atol=1e-6)


def test_the_second_begins_at_what_the_first_left_and_keeps_its_adapters(two):
    of, batch = run(), tiny.batch(5)
    first, second = two
    begun = of.begin_task(first, tiny.batches(1), tiny.settings(seed=1))

    def logits(state):
        return jax.jit(of.trainer.logits)(of.shared, state, batch.tokens, batch.valid)

    np.testing.assert_allclose(logits(begun), logits(first), rtol=1e-5, atol=1e-6)
    assert int(first.begun) == 1 and int(begun.begun) == int(second.begun) == 2
    for path, leaf in first.params.items():
        axis = 1 if path.endswith("/a") else 0
        kept = np.take(second.earlier[path], range(2), axis)
        assert np.array_equal(kept, leaf) and not np.any(
            np.take(second.earlier[path], [2, 3], axis)
        )
        assert not np.array_equal(second.params[path], leaf)
    assert not np.array_equal(logits(second), logits(first))


def test_the_model_is_the_base_with_the_adapters_of_all_tasks(two):
    batch, (_, second) = tiny.batch(5), two
    of = run()

    def logits():
        with apply_lora(joined(second.earlier, second.params), 4.0 * 3):
            return plain_logits(DECODER)(of.base, batch.tokens, batch.valid)

    found = jax.jit(of.trainer.logits)(of.shared, second, batch.tokens, batch.valid)
    np.testing.assert_allclose(found, jax.jit(logits)(), rtol=1e-5, atol=1e-6)
    assert of.trainer.trained(second)["layers_0/attention/query/a"].shape[1] == 6


def test_the_dearer_the_nearer_to_orthogonal(two):
    first, _ = two
    far = [
        float(overlap(s.earlier, s.params)) for s in (task(run(x), first, 1) for x in (0.0, 1.0))
    ]
    assert 0 < far[1] < 0.5 * far[0]


def test_a_resume_goes_on_with_the_next_task(two):
    of, (first, second) = run(), two
    saved = {**of.trainer.trained(first), **of.trainer.carried(first)}
    again = of.trainer.resume(of.start(tiny.settings(seed=0)), saved)
    for name in ("params", "earlier", "begun"):
        jax.tree.map(np.testing.assert_array_equal, getattr(again, name), getattr(first, name))
    after = task(of, again, 1)
    jax.tree.map(np.testing.assert_array_equal, after.params, second.params)
