"""The methods as trainers: what trains, what stays, and how a task begins."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.models.decoder import Decoder
from smf_jax.params import pool_path
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.sparse.selection import select_slots
from smf_jax.training.reads import read_counts
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Shared
from smf_jax.training.trainers import dense_trainer, lora_trainer
from tests.training import tiny

MODEL = tiny.model_config(mode="add")
POOL, ALPHA = pool_path(0), "memory/layer_0/alpha"
ADAMW = OptimizerConfig("adamw", weight_decay=0.1)


def sparse(**choices):
    keep = choices.pop("keep", False)
    return sparse_trainer(Decoder(MODEL), SparseConfig(optimizer=ADAMW, **choices), 64, keep)


TRAINERS = {
    "smf": (sparse(), lambda path: path == POOL),
    "smf +S": (sparse(train_alpha=True), lambda path: path in (POOL, ALPHA)),
    "full": (dense_trainer(Decoder(MODEL), ADAMW), lambda path: True),
    "heal": (
        dense_trainer(Decoder(MODEL), ADAMW, lambda path: path.startswith("memory/")),
        lambda path: path.startswith("memory/"),
    ),
}


@pytest.mark.parametrize("method", TRAINERS)
def test_every_leaf_either_trains_or_stays(method):
    trainer, trains = TRAINERS[method]
    base = tiny.params(MODEL)
    state, frozen = trainer.begin(base, tiny.settings()), trainer.frozen(base)
    trained = trainer.trained(state)
    assert trained.keys() == {path for path in base if trains(path)}
    assert frozen.keys() == base.keys() - trained.keys()
    assert all({**frozen, **trained}[path] is leaf for path, leaf in base.items())
    assert int(state.failed_step) == -1 and int(state.step) == 0


def test_lora_trains_its_adapters_beside_the_whole_base():
    trainer = lora_trainer(Decoder(MODEL), ADAMW, 2, 4.0, ("query", "value"))
    base = tiny.params(MODEL)
    states = [trainer.begin(base, tiny.settings(seed=seed)) for seed in (0, 0, 1)]
    adapters = [trainer.trained(state) for state in states]
    assert adapters[0].keys() == {
        f"layers_0/attention/{target}/{half}" for target in ("query", "value") for half in "ab"
    }
    assert trainer.frozen(base) == base
    name = "layers_0/attention/query/a"
    np.testing.assert_array_equal(adapters[0][name], adapters[1][name])
    assert (adapters[0][name] != adapters[2][name]).any(), "the seed of a trial is its own"


def test_a_narrow_base_trains_float32_masters():
    rounded = {path: leaf.astype(jnp.bfloat16) for path, leaf in tiny.params(MODEL).items()}
    wide = {path: leaf.astype(jnp.float32) for path, leaf in rounded.items()}
    trainer, settings = dense_trainer(Decoder(MODEL), ADAMW), tiny.settings(1e-4)
    step, ends = jax.jit(trainer.step), []
    for base in (rounded, wide):
        state = trainer.begin(base, settings)
        for _ in range(5):
            state, _ = step(Shared(trainer.frozen(base)), state, tiny.batch(), settings)
        assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
        ends.append(trainer.trained(state))
    # The masters of a base that is narrow take the very steps of the same base in float32.
    jax.tree.map(np.testing.assert_array_equal, *ends)
    moved = [(ends[0][path] != wide[path]).mean() for path in wide if "kernel" in path]
    assert min(moved) > 0.9


@pytest.mark.parametrize("method", TRAINERS)
def test_earlier_leaves_are_taken_up(method):
    trainer, _ = TRAINERS[method]
    state = trainer.begin(tiny.params(MODEL), tiny.settings())
    earlier = {path: leaf + 1 for path, leaf in trainer.trained(state).items()}
    resumed = trainer.resume(state, earlier)
    trained = trainer.trained(resumed)
    assert trained.keys() == earlier.keys()
    assert all(trained[path] is earlier[path] for path in earlier)


def used(state):
    """The same state, as steps leave it behind."""
    return jax.tree.map(lambda leaf: leaf + jnp.ones_like(leaf), state)


@pytest.mark.parametrize("keep", [False, True])
def test_the_optimizer_of_a_dense_method_starts_again_unless_told_otherwise(keep):
    trainer = dense_trainer(Decoder(MODEL), ADAMW, keep_optimizer_state=keep)
    fresh = trainer.begin(tiny.params(MODEL), tiny.settings())
    before = used(fresh)
    after = trainer.begin_task(Shared({}), before, tiny.batches(1), tiny.settings())
    expected = before if keep else before._replace(opt_state=fresh.opt_state, step=fresh.step)
    jax.tree.map(np.testing.assert_array_equal, after, expected)


@pytest.mark.parametrize("keep", [False, True])
def test_the_optimizer_of_smf_starts_again_unless_told_otherwise(keep):
    trainer = sparse(keep=keep, train_alpha=True)
    fresh = trainer.begin(tiny.params(MODEL), tiny.settings())
    before = used(fresh)
    after = trainer.begin_task(Shared({}), before, tiny.batches(1), tiny.settings())
    assert not np.asarray(after.written[POOL]).any()
    for path, leaf in trainer.trained(before).items():
        np.testing.assert_array_equal(trainer.trained(after)[path], leaf)
    assert int(after.failed_step) == int(before.failed_step), "a failed trial stays failed"
    kept = before if keep else fresh
    assert int(after.step) == int(kept.step)
    store, kept_store = after.stores[POOL], kept.stores[POOL]
    assert store is not None and kept_store is not None
    np.testing.assert_array_equal(store.places, kept_store.places)
    assert int(store.used) == int(kept_store.used)
    jax.tree.map(np.testing.assert_array_equal, after.scalar_opt_state, kept.scalar_opt_state)


@pytest.fixture(scope="module")
def counted():
    """Accesses of a batch by the base."""
    model = tiny.model_config()
    return jax.jit(lambda batch: read_counts(Decoder(model), tiny.params(model), batch)[POOL])


@pytest.fixture(scope="module")
def per_task():
    """A trial whose slots are chosen once a task, and its state at the first step."""
    run = tiny.sparse_run(SparseConfig(granularity="per_task", optimizer=ADAMW))
    examples = tiny.batches(4)
    state = run.begin_task(run.start(), examples, tiny.settings(budget=20))
    return run, examples, state


def test_the_slots_of_a_task_come_from_all_of_its_examples(per_task, counted):
    _, examples, state = per_task
    parts = (type(examples)(*(field[i] for field in examples)) for i in range(4))
    counts = sum(map(counted, parts), jnp.zeros((), jnp.int32))
    expected = select_slots(counts, tiny.usage(tiny.model_config())[POOL], top_t=20)
    np.testing.assert_array_equal(state.task_slots[POOL], expected)


def test_a_step_of_per_task_moves_those_of_its_slots_that_its_batch_reads(per_task, counted):
    run, _, state = per_task
    settings, batch = tiny.settings(0.05, budget=20), tiny.batch(1, rows=1)
    batch = type(batch)(*(np.repeat(field, tiny.ROWS, axis=0) for field in batch))
    after, metrics = run.step(state, batch, settings)
    read = np.flatnonzero(counted(batch))
    slots = np.asarray(state.task_slots[POOL])
    moved = set(np.intersect1d(read, slots).tolist())
    assert 0 < len(moved) < 20, "some of the task's slots are not read by this batch"
    assert int(metrics.selected) == len(moved)
    assert set(np.flatnonzero(after.written[POOL]).tolist()) == moved
    changed = (after.tables[POOL] != state.tables[POOL]).any(axis=1)
    assert set(np.flatnonzero(changed).tolist()) <= moved
    placed = np.flatnonzero(np.asarray(after.stores[POOL].places) < tiny.SLOTS)
    assert set(placed.tolist()) == moved, "a row that is not read does not advance"
    np.testing.assert_array_equal(after.task_slots[POOL], state.task_slots[POOL])


def test_a_sparse_trainer_needs_a_memory():
    with pytest.raises(ValueError, match="the model has no memory: pretrain or retrofit one"):
        sparse_trainer(Decoder(tiny.PLAIN), SparseConfig(), 64)


def test_a_missing_background_is_refused_before_the_model_is_traced():
    run, unused = tiny.sparse_run(SparseConfig(optimizer=ADAMW)), cast(Any, None)
    with pytest.raises(ValueError, match="rule='tfidf' .* none was given; measure one"):
        run.trainer.step(run.shared._replace(usage=None), unused, unused, unused)
