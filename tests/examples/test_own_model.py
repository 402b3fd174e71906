"""The example of a model of one's own: it learns, and exactly as the plain way would."""

from __future__ import annotations

from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples import own_model
from examples.own_model import BUDGET, FACTS, MODEL, TABLE, Transformer
from smf_jax.data.batching import Batch
from smf_jax.losses import weighted_loss
from smf_jax.params import unflatten
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.sparse.selection import select_slots
from smf_jax.sparse.transform import freeze_all_but_rows
from smf_jax.sparse.usage import add_batch, no_usage
from smf_jax.training.reads import read_counts
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Settings, Shared

STEPS, RATE, SIZE, SLOTS = 20, 0.05, 64, own_model.MEMORY.slots
RULE = OptimizerConfig("adamw", clip=0.5, weight_decay=0.1)


def test_the_example_teaches_all_of_its_facts(capsys):
    assert own_model.main() == len(FACTS)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"{len(FACTS)} of {len(FACTS)} facts answered")


def reference(usage):
    """One step of the plain way: the table differentiated, the update masked by the transform."""
    transform = freeze_all_but_rows(
        RULE.transformation(), [TABLE], max_norm=RULE.clip, schedule=lambda _: RATE
    )

    def loss(params, batch):
        logits = Transformer().apply({"params": unflatten(params)}, batch.tokens, batch.valid)
        return weighted_loss(cast(jax.Array, logits), batch.targets, batch.weights)

    def step(params, state, batch):
        counts = read_counts(MODEL, params, batch)[TABLE]
        slots = select_slots(counts, usage[TABLE], top_t=jnp.asarray(BUDGET), size=SIZE)
        value, gradients = jax.value_and_grad(loss)(params, batch)
        updates, state = transform.update(gradients, state, params, slots={TABLE: slots})
        return optax.apply_updates(params, updates), state, value

    return transform, jax.jit(step)


def test_twenty_steps_are_those_of_the_plain_way_in_float64():
    with jax.enable_x64(True):
        params = {path: leaf.astype(jnp.float64) for path, leaf in own_model.fresh_params().items()}
        # Pads, and rows that differ from step to step.
        batch = own_model.make_batch(FACTS)
        batch.valid[0, -2:], batch.weights[0, -2:] = False, 0
        text = Batch(*(field[0] for field in own_model.general_text()))
        counts = jax.jit(partial(read_counts, MODEL))(params, text)
        usage = {TABLE: add_batch(no_usage(own_model.MEMORY.slots), counts[TABLE])}
        trainer = sparse_trainer(
            MODEL, SparseConfig(size=SIZE, optimizer=RULE), own_model.MEMORY.slots
        )
        settings = Settings(jnp.asarray(RATE), jnp.asarray(BUDGET), jnp.asarray(0))
        shared, state = (
            Shared(trainer.frozen(params), usage),
            jax.jit(trainer.begin)(params, settings),
        )
        fast, (transform, plain) = jax.jit(trainer.step), reference(usage)
        whole, plain_state = params, transform.init(params)
        for number in range(STEPS):
            rows = np.arange(number, number + 3) % len(FACTS)
            part = Batch(*(field[rows] for field in batch))
            state, metrics = fast(shared, state, part, settings)
            whole, plain_state, loss = plain(whole, plain_state, part)
            assert abs(float(metrics.loss) - float(loss)) <= 1e-12
        table = state.tables[TABLE]
        assert table.dtype == jnp.float64 and int(state.failed_step) == -1
        np.testing.assert_allclose(table, whole[TABLE], rtol=0, atol=1e-12)
        moved = np.any(np.asarray(table != params[TABLE]), axis=1)
        assert BUDGET < moved.sum() < SLOTS
        assert np.abs(np.asarray(table - params[TABLE])).max() > 0.1
        np.testing.assert_array_equal(moved, state.written[TABLE])
        for path in shared.frozen:
            np.testing.assert_array_equal(whole[path], params[path])
