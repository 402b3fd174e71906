"""The step of whole leaves: what it trains, and that a step that is not finite changes nothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.dense_step import DenseState, dense_step, text_loss
from tests.training import tiny
from tests.training.tiny import same_but_for, spoilt


@pytest.fixture(scope="module")
def dense():
    """A dense step of a two-parameter model: logits are a bias and a scale of the tokens."""
    update = OptimizerConfig("adamw", clip=1.0)

    def logits(params, tokens, valid):
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
