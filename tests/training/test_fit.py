"""Fitting one model over the devices of a mesh, with a model small enough to see through."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.data.batching import Batch
from smf_jax.mesh import DATA, device_mesh
from smf_jax.params import split
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.dense_step import DenseState, dense_step, text_loss
from smf_jax.training.fit import fit
from smf_jax.training.trainers import Trainer
from tests.training import tiny

UPDATE = OptimizerConfig("adamw")
LEAVES = {"scale": jnp.ones(()), "bias": jnp.zeros(40), "frozen": jnp.asarray([-0.0])}


def logits(params, tokens, valid, places=None, /):
    one_hot = jax.nn.one_hot(tokens, 40) * params["scale"]
    return one_hot + jnp.expand_dims(params["bias"], (0, 1)) + params["frozen"].sum()


def trained(params):
    return split(params, lambda path: path != "frozen")


TRAINER = Trainer(
    begin=lambda base, settings: DenseState(
        trained(base)[0],
        UPDATE.transformation().init(trained(base)[0]),
        jnp.zeros((), jnp.int32),
        jnp.full((), -1, jnp.int32),
        {},
    ),
    begin_task=lambda shared, state, examples, settings: state,
    step=lambda shared, state, batch, settings: dense_step(
        text_loss(logits), UPDATE, shared.frozen, state, batch, settings
    ),
    logits=lambda shared, state, tokens, valid: logits(state.params, tokens, valid),
    trained=lambda state: state.params,
    resume=lambda state, params: state,
    frozen=lambda base: trained(base)[1],
)


def batches(steps=12, rows=8):
    made = [tiny.batch(0, rows) for _ in range(steps)]
    return Batch(*(np.stack(fields) for fields in zip(*made, strict=True)))


def run(devices, given=None, rate=0.1, progress=lambda _: None):
    mesh = device_mesh(DATA, jax.devices()[:devices])
    return fit(TRAINER, LEAVES, batches() if given is None else given, rate, mesh, progress)


def test_the_loss_falls_and_what_is_frozen_stays():
    done = []
    fitted = run(1, progress=done.append)
    assert fitted.losses.shape == (12,) and (np.diff(fitted.losses) < 0).all()
    assert done == [10, 12]
    assert list(fitted.params) == ["bias", "frozen", "scale"]
    assert np.signbit(fitted.params["frozen"]).all()
    assert LEAVES["scale"] == 1 and not LEAVES["bias"].any(), "the start is not taken over"


def test_the_devices_share_each_batch():
    one, eight = run(1), run(8)
    np.testing.assert_allclose(one.losses, eight.losses, rtol=1e-5)
    for path, leaf in one.params.items():
        np.testing.assert_allclose(leaf, eight.params[path], rtol=0, atol=1e-5)


def test_a_batch_that_the_devices_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="batch of 6 rows over 4 devices: choose a batch size"):
        run(4, batches(rows=6))


def test_a_step_that_is_not_finite_is_named():
    given = batches()
    given.weights[5] = np.nan
    with pytest.raises(FloatingPointError, match=r"step 5 of 12: .* lower the learning rate \(0.1"):
        run(1, given)
