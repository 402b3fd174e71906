"""Steps on a table that holds written rows only: the bits of those on a whole one."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.models.decoder import Decoder
from smf_jax.params import count_parameters
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.tables import empty_table, explicit, is_implicit
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Shared
from smf_jax.training.teach import teach
from tests.training import tiny

NORMAL = tiny.model_config((0,), "add", alpha=None)
MODEL = tiny.model_config((0,), "add", alpha=None, init_rows="zero")
POOLS = ("memory/pool_0/values",)
STEPS = 2


@pytest.fixture(autouse=True, scope="module")
def as_xla_compiles():
    """Where less is made of programs, as in other tests, a dot product is rounded as it falls."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def leaves(whole: bool):
    """The base, its tables at zero."""
    shape = tiny.SLOTS, tiny.MEMORY.value_width
    start = jnp.zeros(shape) if whole else empty_table(*shape)
    return {**tiny.params(NORMAL), **dict.fromkeys(POOLS, start)}


def test_fresh_leaves_are_implicit_and_empty():
    fresh = {path: leaf for path, leaf in tiny.abstract(MODEL).items() if is_implicit(leaf)}
    assert fresh.keys() == set(POOLS)
    assert count_parameters(fresh) == 0


class Trial:
    """Tasks of a trainer on a base of one kind."""

    def __init__(self, config: SparseConfig, whole: bool) -> None:
        self.trainer = sparse_trainer(Decoder(MODEL), config, tiny.SLOTS)
        base = leaves(whole)
        self.shared = Shared(self.trainer.frozen(base), tiny.usage(MODEL))
        self.state = self.trainer.begin(base, tiny.settings())
        self.step = jax.jit(partial(self.trainer.step, self.shared))
        self.begin_task = jax.jit(partial(self.trainer.begin_task, self.shared))
        self.losses = []

    def task(self, start: int, grows: bool = True) -> None:
        if grows:
            self.state = self.trainer.grow(self.state, STEPS)
        examples = tiny.batches(STEPS, start)
        self.state = self.begin_task(self.state, examples, tiny.settings())
        for seed in range(STEPS):
            batch = tiny.batch(start + seed)
            self.state, metrics = self.step(self.state, batch, tiny.settings())
            self.losses.append(np.asarray(metrics.loss).tobytes())


@pytest.mark.parametrize(
    "config",
    [
        SparseConfig(optimizer=OptimizerConfig("sgd"), size=16),
        SparseConfig(optimizer=OptimizerConfig("adamw"), protect_written=1.0, size=16),
    ],
    ids=["sgd", "adamw"],
)
def test_tasks_are_those_of_the_whole_table_bit_for_bit(config):
    made, whole = Trial(config, False), Trial(config, True)
    for task in range(2):
        made.task(task * STEPS)
        whole.task(task * STEPS)
        for trial in (made, whole):  # as after a kill: what is there is taken up
            trial.state = trial.trainer.resume(trial.state, trial.trainer.trained(trial.state))
    assert made.losses == whole.losses
    assert len(set(made.losses)) == 2 * STEPS
    for pool in POOLS:
        table = made.state.tables[pool]
        assert is_implicit(table) and 1 < table.rows.shape[0] <= tiny.SLOTS + 1
        assert explicit(table).tobytes() == np.asarray(whole.state.tables[pool]).tobytes()
        assert jnp.array_equal(made.state.written[pool], whole.state.written[pool])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_without_room_writes_nothing_and_is_latched(optimizer):
    trial = Trial(SparseConfig(optimizer=OptimizerConfig(optimizer), size=16), False)
    before = trial.state
    trial.task(0, grows=False)  # a store of the zero row alone
    assert int(trial.state.failed_step) == 0
    for pool in POOLS:
        assert not np.any(trial.state.tables[pool].index)
        assert not np.any(trial.state.written[pool])
        assert jnp.array_equal(trial.state.tables[pool].rows, before.tables[pool].rows)


def test_one_call_teaches_and_its_patch_is_that_of_the_whole_table():
    told: dict[str, Any] = dict(steps=2, learning_rate=0.1, budget=5)
    config = SparseConfig(rule="tf", optimizer=OptimizerConfig("adamw"))
    patches = [
        teach(Decoder(MODEL), leaves(whole), tiny.batch(), None, config=config, **told)
        for whole in (False, True)
    ]
    assert patches[0].pools.keys() == patches[1].pools.keys() == set(POOLS)
    for pool in POOLS:
        made, whole = (patch.pools[pool] for patch in patches)
        assert made.table_slots == whole.table_slots == tiny.SLOTS
        for field in ("slots", "old", "new"):
            assert np.array_equal(getattr(made, field), getattr(whole, field))


def test_a_mask_of_the_gradient_is_refused():
    with pytest.raises(ValueError, match="mask='gradient' moves every row .* choose mask='update'"):
        Trial(SparseConfig(mask="gradient"), False)
