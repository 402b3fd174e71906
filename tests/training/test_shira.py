"""Sparse high-rank adapters: full finetuning, seen through a fixed mask."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.models.decoder import Decoder, plain_logits
from smf_jax.models.shira import apply_entries
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.dense_step import text_loss
from smf_jax.training.shira import shira_trainer
from tests.training import tiny

MODEL = tiny.model_config()
TARGETS = ("query", "output")


@cache
def run(optimizer: str = "sgd") -> tiny.Run:
    trainer = shira_trainer(Decoder(MODEL), OptimizerConfig(optimizer), TARGETS, 0.2)
    return tiny.Run(trainer, MODEL, with_usage=False)


def test_before_a_step_it_is_the_base():
    of, batch = run(), tiny.batch()
    state = of.start()
    assert not any(np.any(entries) for entries in state.params.values())
    found = jax.jit(of.trainer.logits)(of.shared, state, batch.tokens, batch.valid)
    expected = jax.jit(plain_logits(Decoder(MODEL)))(of.base, batch.tokens, batch.valid)
    np.testing.assert_array_equal(found, expected)


def test_a_step_is_that_of_full_finetuning_at_the_places_and_none_elsewhere():
    of, batch = run(), tiny.batch()
    after, metrics = of.step(of.start(), batch, tiny.settings(0.1))
    loss = text_loss(plain_logits(Decoder(MODEL)))
    (value, _), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(of.base, batch)
    assert metrics.loss == pytest.approx(float(value), rel=1e-6)
    changed = apply_entries(of.base, of.trainer.trained(after))
    for path, kernel in of.base.items():
        mask = np.zeros(kernel.size, bool)
        places = after.places.get(path.replace("/kernel", "/places"))
        if places is not None:
            mask[np.asarray(places)] = True
        expected = np.asarray(kernel - 0.1 * gradients[path] * mask.reshape(kernel.shape))
        np.testing.assert_allclose(changed[path], expected, rtol=1e-5, atol=1e-7)
        same = np.asarray(changed[path]) == np.asarray(kernel)
        assert np.all(same.reshape(-1)[~mask])
    assert sum(np.any(leaf != 0) for leaf in after.params.values()) == 2 * MODEL.layers


def test_the_optimizer_holds_no_more_than_the_entries():
    of = run("adam")
    state = jax.eval_shape(of.start)
    entries = sum(leaf.size for leaf in state.params.values())
    held = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state[0]))
    assert entries == round(0.2 * sum(of.base[path].size for path in of.base if of_target(path)))
    assert held == 2 * entries + 1


def of_target(path: str) -> bool:
    of_map = path.endswith(tuple(f"/{name}/kernel" for name in TARGETS))
    return path.startswith("layers_") and of_map


def test_moments_start_again_at_each_task_and_a_resume_has_the_numbers_and_places():
    of = run("adam")
    state, _ = of.step(of.start(), tiny.batch(), tiny.settings(0.1))
    again = of.begin_task(state, tiny.batches(1), tiny.settings())
    tiny.same_but_for(again, state, "dense")
    tiny.same_but_for(again.dense, state.dense, "opt_state", "step")
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(again.dense.opt_state))
    other = of.start(tiny.settings(seed=5))
    assert any(not np.array_equal(other.places[p], state.places[p]) for p in state.places)
    resumed = of.trainer.resume(other, of.trainer.trained(state))
    for name in ("params", "places"):
        jax.tree.map(np.testing.assert_array_equal, getattr(resumed, name), getattr(state, name))


def test_a_bfloat16_model_has_entries_in_float32():
    base = {path: leaf.astype(jnp.bfloat16) for path, leaf in tiny.params(MODEL).items()}
    state = jax.eval_shape(run().trainer.begin, base, tiny.settings())
    assert {leaf.dtype for leaf in state.params.values()} == {jnp.dtype("float32")}
