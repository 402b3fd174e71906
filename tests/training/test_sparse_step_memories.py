"""The sparse step in every kind of memory: rows move by the dense gradient, all else stays."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.losses import weighted_loss
from smf_jax.models.config import MemoryPlacement
from smf_jax.models.decoder import Decoder
from smf_jax.params import pool_path, unflatten
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Shared
from tests.training import tiny

POOL = pool_path(0)
MEMORIES = {
    "experts of two layers": dict(experts=True),
    "relu and output norm": dict(score="relu", output_norm="layer"),
    "batch norm, scalar gate": dict(query_norm="batch", gate="scalar"),
}


@pytest.mark.parametrize("name", MEMORIES)
def test_selected_rows_take_the_step_of_the_dense_gradient(name):
    memory = replace(tiny.MEMORY, **MEMORIES[name])
    layers = (0, 1) if "two layers" in name else (0,)
    placement = MemoryPlacement(layers, "add", memory, shared_pool=True)
    config = replace(tiny.PLAIN, layers=max(layers) + 1, memory=placement)
    base = {
        path: jnp.abs(leaf) if path.endswith("variance") else leaf
        for path, leaf in tiny.params(config).items()
    }
    trainer = sparse_trainer(Decoder(config), SparseConfig(optimizer=OptimizerConfig("sgd")), 64)
    shared = Shared(trainer.frozen(base), tiny.usage(config))
    state, batch = trainer.begin(base, tiny.settings()), tiny.batch()
    after, metrics = jax.jit(trainer.step)(shared, state, batch, tiny.settings(0.5, budget=7))

    @jax.jit
    @jax.value_and_grad
    def dense(values):
        params = {**base, POOL: values}
        logits = Decoder(config).apply({"params": unflatten(params)}, batch.tokens, batch.valid)
        return weighted_loss(cast(jax.Array, logits), batch.targets, batch.weights)

    loss, gradient = dense(base[POOL])
    assert metrics.loss == pytest.approx(float(loss), rel=1e-5)
    selected = np.asarray(after.written[POOL])
    assert selected.sum() == 7
    moved = np.asarray(after.tables[POOL]) - np.asarray(base[POOL])
    truth = np.where(selected[:, None], -0.5 * np.asarray(gradient), 0)
    assert np.linalg.norm(truth) > 1e-4
    assert np.linalg.norm(moved - truth) <= 2e-4 * np.linalg.norm(truth)
    assert not moved[~selected].any()
    # The second table of experts is read, and stays.
    inputs = "memory/pool_0/expert_inputs"
    assert (inputs in shared.frozen) == memory.experts
    assert trainer.trained(after).keys() == {POOL}
