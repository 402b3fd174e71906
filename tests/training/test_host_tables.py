"""Steps on a table in host memory: bit for bit those on a table of the device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.data.batching import Batch
from smf_jax.memory.ngrams import ngram_slots, recent_tokens
from smf_jax.models.decoder import Decoder
from smf_jax.params import flatten
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.tables import ImplicitTable
from smf_jax.training.host_tables import HostTable, host_steps
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Shared
from tests.models.tiny import random_params
from tests.training import tiny

MEMORY = replace(tiny.MEMORY, keys_per_half=20, router="ngram", gate="context")
# Of rows at zero, whose table may be of either kind.
PLAIN = tiny.model_config(layers=(0,), mode="add", init_rows="zero")
MADE = replace(cast(Any, PLAIN.memory), memory=MEMORY)
CONFIG = PLAIN.with_memory(MADE)
POOL, STEPS, ROOM = "memory/pool_0/values", 4, 3 * tiny.LENGTH * MEMORY.reads_per_token
LEAVES = flatten(random_params(CONFIG.with_memory(replace(MADE, init_rows="normal"))))
TABLE = jnp.asarray(np.random.default_rng(0).standard_normal((MEMORY.slots, 6)), jnp.float32)
SPARSE = SparseConfig(rule="tf", size=16, optimizer=OptimizerConfig("adam"))


def slots_of(batch):
    recent = recent_tokens(jnp.asarray(batch.tokens), jnp.asarray(batch.valid), 3).tokens
    return {POOL: np.asarray(ngram_slots(recent, MEMORY.heads, MEMORY.slots))}


def begun(table):
    """Trainer, shared, state and settings, with a table of either kind."""
    trainer = sparse_trainer(Decoder(CONFIG), SPARSE, capacity=64)
    params = {**LEAVES, POOL: table}
    settings = tiny.settings(budget=16)
    return trainer, Shared(trainer.frozen(params), None), trainer.begin(params, settings), settings


@pytest.mark.parametrize("repeated", [False, True])
def test_steps_leave_in_the_host_what_they_leave_on_the_device(repeated):
    # The same batch again reads the very rows that the step before it writes.
    made = [tiny.batch(0 if repeated else seed) for seed in range(STEPS)]
    table = TABLE
    trainer, shared, state, settings = begun(table)
    step = jax.jit(trainer.step)
    for batch in made:
        state, _ = step(shared, state, batch, settings)
    host = HostTable(np.array(table), ROOM)
    trainer, shared, own, settings = begun(host.fetch(np.arange(0)).table)
    given = made, settings, {POOL: host}, slots_of
    for after, metrics in host_steps(step, shared, own, *given):
        assert int(metrics.selected) == 16
        on_device: Any = after.tables[POOL]
        assert isinstance(on_device, ImplicitTable) and on_device.rows.shape == (ROOM + 1, 6)
        assert int(after.failed_step) == -1
    np.testing.assert_allclose(host.values, state.tables[POOL], rtol=0, atol=1e-6)
    moved = np.any(np.asarray(state.tables[POOL]) != np.asarray(table), axis=1)
    np.testing.assert_array_equal(np.any(host.values != np.asarray(table), axis=1), moved)
    assert 16 <= moved.sum() <= STEPS * 16


def test_a_batch_that_reads_more_than_there_is_room_for_is_refused():
    host = HostTable(np.zeros((100, 2), np.float32), room=3)
    assert host.fetch(np.array([5, 5, 7, 9])).slots.tolist() == [5, 7, 9]
    with pytest.raises(ValueError, match="reads 4 distinct rows and room=3"):
        host.fetch(np.array([[5, 7], [9, 11]]))


def test_no_batch_is_no_step():
    assert not list(host_steps(cast(Any, None), None, cast(Any, None), (), None, {}, slots_of))
    assert isinstance(tiny.batch(), Batch)
