"""Rows of feed-forwards: a step of full finetuning on the chosen rows, and nothing elsewhere."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.models.decoder import Decoder, plain_logits
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.dense_step import text_loss
from smf_jax.training.ffn_rows import FfnRule, best_rows, ffn_rows_trainer, is_down
from tests.training import tiny

MODEL = tiny.model_config((0,), "add")
COUNT = 5
LOSS = text_loss(plain_logits(Decoder(MODEL)))


@cache
def run(optimizer: str = "sgd", rule: FfnRule = "gradient") -> tiny.Run:
    trainer = ffn_rows_trainer(Decoder(MODEL), OptimizerConfig(optimizer), COUNT, rule)
    return tiny.Run(trainer, MODEL, with_usage=False)


@jax.jit
def gradients_of(params, batch):
    return jax.grad(LOSS, has_aux=True)(params, batch)[0]


def test_the_rows_with_the_largest_gradients_of_the_task_are_chosen():
    of, examples = run(), tiny.batches(2)
    state = of.begin_task(of.start(), examples, tiny.settings())
    parts = [gradients_of(of.base, tiny.batch(seed)) for seed in range(2)]
    downs = sorted(filter(is_down, of.base))
    assert len(downs) == MODEL.layers
    weights = examples.weights.sum(axis=(1, 2))
    assert weights[0] != weights[1], "a chunk counts by what its targets weigh"
    sums = {path: sum(w * p[path] for w, p in zip(weights, parts, strict=True)) for path in downs}
    norms = [np.linalg.norm(sums[path], axis=1) for path in downs]
    best = np.argsort(-np.concatenate(norms))[:COUNT]
    expected = np.isin(np.arange(sum(map(len, norms))), best)
    found = np.concatenate([state.chosen[path] for path in downs])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_moves_the_chosen_rows_as_full_finetuning_does_and_no_other(optimizer):
    of, batch = run(optimizer), tiny.batch()
    state = of.begin_task(of.start(), tiny.batches(2), tiny.settings())
    after, metrics = of.step(state, batch, tiny.settings(0.1))
    assert np.isfinite(metrics.loss) and int(after.failed_step) == -1
    assert after.params.keys() == state.chosen.keys()
    gradients, moved = gradients_of(of.base, batch), 0
    for path, rows in state.chosen.items():
        rows, before, now = map(np.asarray, (rows, of.base[path], after.params[path]))
        assert now[~rows].tobytes() == before[~rows].tobytes()
        moved += np.sum(np.any(now != before, axis=1))
        if optimizer == "sgd":
            expected = before[rows] - 0.1 * np.asarray(gradients[path])[rows]
            np.testing.assert_allclose(now[rows], expected, rtol=1e-5, atol=1e-7)
    assert moved == COUNT


def test_a_bound_of_the_norm_counts_the_chosen_rows_alone():
    clip = 1e-3
    trainer = ffn_rows_trainer(Decoder(MODEL), OptimizerConfig("sgd", clip=clip), COUNT)
    of = tiny.Run(trainer, MODEL, with_usage=False)
    state = of.begin_task(of.start(), tiny.batches(2), tiny.settings())
    after, _ = of.step(state, tiny.batch(), tiny.settings(1.0))
    moved = [after.params[path] - of.base[path] for path in state.chosen]
    assert float(jnp.sqrt(sum(jnp.sum(each**2) for each in moved))) == pytest.approx(clip, rel=0.01)


def test_rows_at_random_are_others_in_each_task_and_for_each_seed():
    of = run(rule="random")
    first = of.begin_task(of.start(), tiny.batches(2), tiny.settings())
    second = of.begin_task(first, tiny.batches(2), tiny.settings())
    other = of.begin_task(of.start(), tiny.batches(2), tiny.settings(seed=1))
    chosen = [
        np.flatnonzero(np.concatenate(list(state.chosen.values()))).tolist()
        for state in (first, second, other)
    ]
    assert [len(rows) for rows in chosen] == [COUNT] * 3
    assert chosen[0] != chosen[1] and chosen[0] != chosen[2]
    again = of.trainer.resume(of.start(), {**of.trainer.trained(first), "tasks": first.begun})
    again = of.begin_task(again, tiny.batches(2), tiny.settings())
    jax.tree.map(np.testing.assert_array_equal, again.chosen, second.chosen)


def test_of_equal_rows_the_first_are_best():
    scores = {"a": jnp.array([1.0, 3.0, 2.0]), "b": jnp.array([3.0, 0.0])}
    found = best_rows(scores, 2)
    assert {path: rows.tolist() for path, rows in found.items()} == {
        "a": [False, True, False],
        "b": [True, False],
    }
    assert best_rows(scores, 3)["a"].tolist() == [False, True, True]
