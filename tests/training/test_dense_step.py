"""The step of whole leaves: what it trains, and that a step that is not finite changes nothing."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Var

from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.dense_step import DenseState, dense_step, loss_and_gradients, text_loss
from tests.training import tiny
from tests.training.tiny import same_but_for, spoilt


@pytest.fixture(scope="module")
def dense():
    """A dense step of a two-parameter model: logits are a bias and a scale of the tokens."""
    update = OptimizerConfig("adamw", clip=1.0)

    def logits(params, tokens, valid, places=None, /):
        one_hot = jax.nn.one_hot(tokens, 40) * params["scale"]
        return one_hot + jnp.expand_dims(params["bias"], (0, 1)) + params["frozen"]

    frozen = {"frozen": jnp.ones(())}
    step = jax.jit(lambda *given: dense_step(text_loss(logits), update, frozen, *given))
    params = {"bias": jnp.zeros(40), "scale": jnp.ones(())}
    state = DenseState(
        params, update.transformation().init(params), jnp.zeros((), jnp.int32), jnp.int32(-1), {}
    )
    return step, state


def test_a_dense_step_trains_its_leaves(dense):
    step, state = dense
    losses, selected = [], []
    for _ in range(5):
        state, metrics = step(state, tiny.batch(), tiny.settings(0.1))
        losses.append(float(metrics.loss))
        selected.append(int(metrics.selected))
    assert losses == sorted(losses, reverse=True) and selected[-1] == 0
    assert state.params.keys() == {"bias", "scale"} and int(state.failed_step) == -1
    assert int(state.step) == 5


@pytest.mark.parametrize(
    ("batch", "rate"), [(spoilt(tiny.batch()), 0.1), (tiny.batch(), np.nan), (tiny.batch(), 1e39)]
)
def test_a_dense_step_that_is_not_finite_changes_nothing_and_is_latched(dense, batch, rate):
    step, state = dense
    state, _ = step(state, tiny.batch(), tiny.settings(0.1))
    with np.errstate(over="ignore"):
        failed, _ = step(state, batch, tiny.settings(float(np.float32(rate))))
    assert int(failed.failed_step) == 1
    same_but_for(failed, state, "step", "failed_step")
    later, _ = step(failed, tiny.batch(), tiny.settings(0.1))
    assert int(later.failed_step) == 1
    same_but_for(later, state, "step", "failed_step")


def test_a_leaf_that_would_not_be_finite_stays_and_fails_the_trial(dense):
    step, state = dense
    state, _ = step(state, tiny.batch(), tiny.settings(0.1))
    high = state._replace(params={**state.params, "bias": state.params["bias"].at[3].set(3e38)})
    failed, _ = step(high, tiny.batch(), tiny.settings(3e38))
    assert int(failed.failed_step) == 1
    np.testing.assert_array_equal(failed.params["bias"], high.params["bias"])
    assert jnp.isfinite(failed.params["scale"])


def test_the_write_of_a_leaf_waits_for_no_other_leaf():
    """Else XLA's compile time grows with the square of the depth: minutes at thirty layers."""
    optimizer = OptimizerConfig("adamw")
    params = {f"layers_{i}/kernel": jnp.ones((4, 4)) for i in range(3)}

    def loss(params, batch):
        return jnp.sum(jnp.stack([jnp.sum(jnp.square(leaf)) for leaf in params.values()])), {}

    state = DenseState(
        params, optimizer.transformation().init(params), jnp.zeros((), jnp.int32), jnp.int32(-1), {}
    )
    step = partial(dense_step, loss, optimizer, {})
    jaxpr = jax.make_jaxpr(step)(state, tiny.batch(), tiny.settings(0.1)).jaxpr
    asked: dict[Any, frozenset[int]] = {}  # by variable, the leaves that have to be finite for it
    for number, equation in enumerate(jaxpr.eqns):
        inputs = [v for v in equation.invars if isinstance(v, Var)]
        told = frozenset[int]().union(*(asked.get(v, ()) for v in inputs))
        name = equation.params.get("name", equation.primitive.name)
        if name in ("isfinite", "is_finite") and cast(Any, inputs[0].aval).shape == (4, 4):
            told |= {number}
        asked |= dict.fromkeys(equation.outvars, told)
    assert [len(asked[v]) for v in jaxpr.outvars[: len(params)]] == [1, 1, 1]


@pytest.mark.parametrize("blank", ["nothing", "a part", "all"])
def test_parts_of_a_batch_give_the_loss_and_gradients_of_the_whole(blank):
    """With targets of unequal weight, a part without any, and a price of params alone."""
    rng = np.random.default_rng(0)
    batch = tiny.batch(rows=4)
    weights = rng.uniform(0, 1, batch.weights.shape).astype(np.float32)
    weights[: {"nothing": 0, "a part": 2, "all": len(weights)}[blank]] = 0
    batch = batch._replace(weights=jnp.asarray(weights))
    params = {"bias": jnp.asarray(rng.normal(size=(40, 40)), jnp.float32)}
    of_text = text_loss(lambda params, tokens, valid, places=None, /: params["bias"][tokens])

    def loss(params, batch):
        return of_text(params, batch)[0] + jnp.sum(jnp.square(params["bias"])), {}

    whole, wanted = loss_and_gradients(loss, params, batch)
    parts, found = loss_and_gradients(loss, params, batch, 2)
    np.testing.assert_allclose(parts[0], whole[0], rtol=1e-6)
    np.testing.assert_allclose(found["bias"], wanted["bias"], rtol=1e-6, atol=1e-6)
    unpriced = loss_and_gradients(of_text, params, batch, 2)[1]["bias"]
    assert jnp.any(unpriced != 0) == (blank != "all")
