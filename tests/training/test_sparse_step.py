"""The sparse step against the dense gradient, bit for bit elsewhere, and when it must not write."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from smf_jax.memory.layer import MemoryLayer
from smf_jax.models.decoder import Decoder
from smf_jax.params import pool_path
from smf_jax.sparse.optimizers import OPTIMIZERS, OptimizerConfig
from smf_jax.sparse.transform import freeze_all_but_rows
from smf_jax.training.memory_model import as_memory_model
from smf_jax.training.reads import read_counts
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_step import sparse_step
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Lower, Shared
from tests.training import tiny
from tests.training.tiny import same_but_for, spoilt

POOL = pool_path(0)
ADDED = tiny.model_config(mode="add")
SHARED = tiny.model_config(layers=(0, 1, 2), shared_pool=True)
SGD = OptimizerConfig("sgd")


def bits(array):
    return np.asarray(array).view(np.int32)


def changed_rows(before, after):
    return set(np.flatnonzero((bits(before) != bits(after)).any(axis=1)).tolist())


def relative(difference, truth):
    return np.linalg.norm(np.asarray(difference)) / np.linalg.norm(np.asarray(truth))


def test_one_step_is_the_dense_gradient_masked_by_the_transform():
    run, model = tiny.sparse_run(SparseConfig(optimizer=SGD)), tiny.model_config()
    state, settings, batch = run.start(), tiny.settings(), tiny.batch()
    slots = tiny.expected_slots(run, state, batch, settings)
    loss, gradients = tiny.loss_and_gradient(model)(run.base, batch)
    transform = freeze_all_but_rows(optax.sgd(0.5), [POOL])
    gradients = {path: gradients.get(path, jnp.ones_like(leaf)) for path, leaf in run.base.items()}

    @jax.jit
    def transformed(gradients, params):
        updates, _ = transform.update(gradients, transform.init(params), params, slots=slots)
        return optax.apply_updates(params, updates)

    reference = transformed(gradients, run.base)
    after, metrics = run.step(state, batch, settings)
    moved = after.tables[POOL] - state.tables[POOL]
    truth = reference[POOL] - run.base[POOL]
    for path in run.base.keys() - {POOL}:
        np.testing.assert_array_equal(bits(reference[path]), bits(run.base[path]))
    assert np.linalg.norm(truth) > 1e-3
    assert relative(moved - truth, truth) <= 1e-5
    assert metrics.loss == pytest.approx(float(loss), rel=1e-6)
    assert int(metrics.selected) == 5 and int(after.step) == 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_other_row_and_leaf_keeps_every_bit(optimizer):
    rule = OptimizerConfig(optimizer, weight_decay=0.1)
    run = tiny.sparse_run(SparseConfig(optimizer=rule))
    state, settings, moved = run.start(), tiny.settings(0.05), set()
    for seed in range(4):
        batch = tiny.batch(seed)
        slots = set(tiny.expected_slots(run, state, batch, settings)[POOL].tolist())
        before, (state, metrics) = state, run.step(state, batch, settings)
        changed = changed_rows(before.tables[POOL], state.tables[POOL])
        assert changed <= slots and int(metrics.selected) == 5
        moved |= changed
    assert len(moved) > 5, "selections change"
    assert moved <= set(np.flatnonzero(state.written[POOL])) and state.written[POOL].sum() <= 20
    assert run.trainer.trained(state).keys() == {POOL}, "no other leaf is in the step's hands"
    assert run.shared.frozen.keys() == run.base.keys() - {POOL}


def test_a_shared_pool_gets_the_gradient_of_all_its_layers():
    config = SparseConfig(rule="all", size=tiny.SLOTS, optimizer=SGD)
    run = tiny.sparse_run(config, SHARED)
    state, batch = run.start(), tiny.batch()
    _, gradients = tiny.loss_and_gradient(SHARED)(run.base, batch)
    after, metrics = run.step(state, batch, tiny.settings(1.0))
    moved = state.tables[POOL] - after.tables[POOL]
    assert relative(moved - gradients[POOL], gradients[POOL]) <= 1e-5
    read = np.asarray(gradients[POOL]).any(axis=1)
    assert int(metrics.selected) == read.sum() and not read.all()
    np.testing.assert_array_equal(state.written[POOL] | read, after.written[POOL])


def test_a_budget_above_the_accessed_slots_trains_all_accessed_rows():
    run, batch = tiny.sparse_run(SparseConfig(optimizer=SGD)), tiny.batch()
    accessed = np.flatnonzero(tiny.counts_of(tiny.model_config())(run.base, batch)[POOL])
    _, gradients = tiny.loss_and_gradient(tiny.model_config())(run.base, batch)
    for budget in (len(accessed), 64):
        state, metrics = run.step(run.start(), batch, tiny.settings(1.0, budget=budget))
        moved = run.base[POOL] - state.tables[POOL]
        assert relative(moved - gradients[POOL], gradients[POOL]) <= 1e-5
        assert int(metrics.selected) == len(accessed) < 64 < tiny.SLOTS
        np.testing.assert_array_equal(np.flatnonzero(state.written[POOL]), accessed)


def test_what_stands_at_pads_changes_nothing():
    run, model = tiny.sparse_run(SparseConfig(optimizer=SGD)), tiny.model_config()
    batch = tiny.batch()
    assert not batch.valid.all()
    other = batch._replace(
        tokens=np.where(batch.valid, batch.tokens, 17).astype(np.int32),
        targets=np.where(batch.valid, batch.targets, 3).astype(np.int32),
    )
    results = [run.step(run.start(), given, tiny.settings()) for given in (batch, other)]
    jax.tree.map(np.testing.assert_array_equal, *results)
    counts = [tiny.counts_of(model)(run.base, given)[POOL] for given in (batch, other)]
    np.testing.assert_array_equal(*counts)
    assert int(counts[0].sum()) == batch.valid.sum() * tiny.MEMORY.reads_per_token


def test_words_before_the_answer_count_as_accesses_whatever_they_weigh():
    model, batch = tiny.model_config(), tiny.batch()
    unweighted = batch._replace(weights=(batch.weights == 1).astype(np.float32))
    params = tiny.params(model)
    np.testing.assert_array_equal(
        tiny.counts_of(model)(params, batch)[POOL], tiny.counts_of(model)(params, unweighted)[POOL]
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("how", ["loss", "rate"])
def test_a_step_that_is_not_finite_writes_nothing_and_is_latched(optimizer, how):
    run = tiny.sparse_run(SparseConfig(optimizer=OptimizerConfig(optimizer, weight_decay=0.1)))
    good = tiny.settings(0.05)
    state, _ = run.step(run.start(), tiny.batch(0), good)
    batch, settings = (spoilt(tiny.batch(1)), good)
    if how == "rate":
        batch, settings = tiny.batch(1), tiny.settings(np.inf)
    failed, metrics = run.step(state, batch, settings)
    assert int(failed.failed_step) == 1 and int(metrics.selected) == 0
    same_but_for(failed, state, "step", "failed_step")
    later, metrics = run.step(failed, tiny.batch(2), good)
    assert int(later.failed_step) == 1 and int(metrics.selected) == 0
    assert np.isfinite(metrics.loss)
    same_but_for(later, state, "step", "failed_step")


def test_more_row_state_than_the_store_holds_fails_the_trial_and_writes_nothing():
    run = tiny.sparse_run(SparseConfig(optimizer=OptimizerConfig("adamw", weight_decay=0.1)))
    state, settings = run.start(), tiny.settings(0.05)
    nearly_full = state.stores[POOL]._replace(used=jnp.int32(tiny.SLOTS - 6))
    state = state._replace(stores={POOL: nearly_full})
    before, metrics = run.step(state, tiny.batch(0), settings)
    assert int(metrics.selected) == 5 and int(before.failed_step) == -1
    after, metrics = run.step(before, tiny.batch(1), settings)
    assert after.stores[POOL].overflowed
    assert int(after.failed_step) == 1 and int(metrics.selected) == 0
    same_but_for(after, before, "stores", "step", "failed_step")


def test_alpha_trains_by_its_own_gradient():
    run = tiny.sparse_run(SparseConfig(optimizer=SGD, train_alpha=True), ADDED)
    state, path = run.start(), "memory/layer_0/alpha"
    after, _ = run.step(state, tiny.batch(), tiny.settings(500.0))
    assert run.trainer.trained(after).keys() == {POOL, path}
    _, gradients = tiny.loss_and_gradient(ADDED)(run.base, tiny.batch())
    moved = after.scalars[path] - state.scalars[path]
    assert float(moved) == pytest.approx(-500 * float(gradients[path]), rel=1e-5)
    assert abs(moved) > 0.05


@pytest.mark.parametrize("follows", [True, False])
def test_alpha_has_a_rate_of_its_own_with_and_without_the_schedule(follows):
    update = OptimizerConfig("sgd", schedule="cosine", warmup_steps=2, schedule_steps=10)
    config = SparseConfig(
        optimizer=update, train_alpha=True, alpha_rate=100.0, alpha_schedule=follows
    )
    run, path = tiny.sparse_run(config, ADDED), "memory/layer_0/alpha"
    state, _ = run.step(run.start(), tiny.batch(), tiny.settings(5.0))
    _, gradients = tiny.loss_and_gradient(ADDED)(run.base, tiny.batch())
    moved = float(state.scalars[path] - run.base[path])
    factor = 0.5 if follows else 1.0
    assert moved == pytest.approx(-500 * factor * float(gradients[path]), rel=1e-5)
    rows = (state.tables[POOL] - run.base[POOL])[np.flatnonzero(state.written[POOL])]
    truth = -5 * 0.5 * gradients[POOL][np.flatnonzero(state.written[POOL])]
    assert relative(rows - truth, truth) < 1e-4, "rows follow the schedule at their own rate"


def test_what_a_task_wrote_joins_the_history_of_the_next():
    config = SparseConfig(optimizer=SGD, protect_written=1.0)
    run = tiny.sparse_run(config)
    state, settings = run.start(), tiny.settings()
    written = []
    for _ in range(2):
        state = run.begin_task(state, tiny.batches(1), settings)
        assert not np.asarray(state.written[POOL]).any()
        state, _ = run.step(state, tiny.batch(), settings)
        written.append(set(np.flatnonzero(state.written[POOL]).tolist()))
    assert len(written[0]) == len(written[1]) == 5 and not written[0] & written[1]
    past = run.begin_task(state, tiny.batches(1), settings).history[POOL]
    assert set(np.flatnonzero(past.written).tolist()) == written[0] | written[1]
    assert int(past.number) == 10
    resumed = run.trainer.resume(run.start(), run.trainer.trained(state))
    jax.tree.map(np.testing.assert_array_equal, resumed.history[POOL], past)


def test_rows_that_stay_as_they_are_are_no_history():
    """A gradient that rounds away: a resume, which looks at the rows, would not know of it."""
    run = tiny.sparse_run(SparseConfig(optimizer=SGD, protect_written=1.0))
    settings = tiny.settings(1e-30)
    state = run.begin_task(run.start(), tiny.batches(1), settings)
    state, metrics = run.step(state, tiny.batch(), settings)
    assert int(metrics.selected) == 5
    past = run.begin_task(state, tiny.batches(1), settings).history[POOL]
    resumed = run.trainer.resume(run.start(), run.trainer.trained(state)).history[POOL]
    assert int(past.number) < 5
    jax.tree.map(np.testing.assert_array_equal, resumed, past)


def test_what_is_drawn_for_a_task_is_the_same_after_a_resume():
    config = SparseConfig(rule="random", granularity="per_task", optimizer=SGD)
    run, settings = tiny.sparse_run(config), tiny.settings()
    state = run.begin_task(run.start(), tiny.batches(1), settings)
    state, _ = run.step(state, tiny.batch(), settings)
    resumed = run.trainer.resume(run.start(), run.trainer.trained(state))
    slots = [
        run.begin_task(each, tiny.batches(1), settings).task_slots for each in (state, resumed)
    ]
    np.testing.assert_array_equal(slots[0][POOL], slots[1][POOL])


def test_a_budget_without_a_place_for_its_rows_is_refused():
    run = tiny.sparse_run(SparseConfig(optimizer=SGD, size=8))
    with pytest.raises(
        ValueError, match=r"budget=9 rows is more than size=8 .*budget_size\(budget"
    ):
        run.start(tiny.settings(budget=9))
    everything = tiny.sparse_run(SparseConfig(rule="all", optimizer=SGD, size=8))
    everything.start(tiny.settings(budget=9))  # a rule without a budget
    whole = tiny.sparse_run(SparseConfig(optimizer=SGD, size=tiny.SLOTS))
    whole.start(tiny.settings(budget=9 * tiny.SLOTS))  # all of the table


def test_micro_batches_write_the_union_of_their_rows_in_one_step():
    config = SparseConfig(
        optimizer=OptimizerConfig("adamw"), granularity="per_micro_batch", micro_batches=tiny.ROWS
    )
    run = tiny.sparse_run(config)
    state, metrics = run.step(run.start(), tiny.batch(), tiny.settings())
    assert 5 < int(metrics.selected) <= 5 * tiny.ROWS
    assert int(metrics.selected) == state.written[POOL].sum() == int(state.stores[POOL].used)
    assert changed_rows(run.base[POOL], state.tables[POOL]) <= set(
        np.flatnonzero(state.written[POOL]).tolist()
    )
    with pytest.raises(ValueError, match="micro_batches=3 do not divide a batch of 4 rows"):
        jax.eval_shape(run.step, run.start(), tiny.batch(rows=4), tiny.settings())


def test_a_step_that_is_not_finite_leaves_alpha_alone():
    run = tiny.sparse_run(SparseConfig(optimizer=SGD, train_alpha=True), ADDED)
    state = run.start()
    after, _ = run.step(state, spoilt(tiny.batch()), tiny.settings())
    same_but_for(after, state, "step", "failed_step")


def test_rematerialised_blocks_take_the_same_step():
    plain = tiny.sparse_run(SparseConfig(optimizer=SGD, train_alpha=True), ADDED)
    remat = tiny.sparse_run(
        SparseConfig(optimizer=SGD, train_alpha=True), replace(ADDED, remat=True)
    )
    (a, b), (c, d) = (run.step(run.start(), tiny.batch(), tiny.settings())
                      for run in (plain, remat))  # fmt: skip
    assert b.loss == pytest.approx(float(d.loss), rel=1e-6)
    assert changed_rows(a.tables[POOL], plain.base[POOL]) == changed_rows(
        c.tables[POOL], plain.base[POOL]
    )
    moved = a.tables[POOL] - plain.base[POOL]
    assert relative(moved - (c.tables[POOL] - plain.base[POOL]), moved) < 1e-5


def one_step(model, config, state=None, usage=None):
    """Traces a step without compiling it."""
    run = tiny.sparse_run(config, model)
    return jax.eval_shape(
        lambda state: sparse_step(
            as_memory_model(Decoder(model)),
            config,
            run.shared._replace(usage=usage),
            state,
            tiny.batch(),
            tiny.settings(),
        ),
        run.start() if state is None else state,
    )


PLAIN_CHOICES = SparseConfig(rule="tf", optimizer=SGD)


def test_a_model_without_perturbations_is_refused(monkeypatch):
    monkeypatch.setattr(MemoryLayer, "perturb", lambda self, name, value, collection: value)
    with pytest.raises(ValueError, match="the model perturbs .*, expected exactly one read for"):
        one_step(tiny.model_config(), PLAIN_CHOICES)


def test_a_perturbation_of_another_shape_is_refused(monkeypatch):
    perturb = MemoryLayer.perturb

    def summed(self, name, value, collection):
        return value + perturb(self, name, value.sum(0, keepdims=True), collection)

    monkeypatch.setattr(MemoryLayer, "perturb", summed)
    with pytest.raises(
        ValueError, match=r"layer_0': \(1, 8, 6\).*expected .*layer_0': \(3, 8, 6\)"
    ):
        one_step(tiny.model_config(), PLAIN_CHOICES)


def test_fewer_perturbations_than_memory_layers_are_refused(monkeypatch):
    perturb = MemoryLayer.perturb

    def not_in_layer_1(self, name, value, collection):
        return value if self.name == "layer_1" else perturb(self, name, value, collection)

    monkeypatch.setattr(MemoryLayer, "perturb", not_in_layer_1)
    with pytest.raises(ValueError, match="expected exactly one read for each memory layer"):
        one_step(SHARED, PLAIN_CHOICES)


def test_reads_that_are_not_sown_are_refused(monkeypatch):
    monkeypatch.setattr(MemoryLayer, "sow", lambda *args, **kwargs: True)
    with pytest.raises(
        ValueError, match=r"the model sows reads of \[\], expected \['memory/layer_0'\]"
    ):
        one_step(tiny.model_config(), PLAIN_CHOICES)


def test_per_task_without_its_slots_is_refused():
    config = replace(PLAIN_CHOICES, granularity="per_task")
    state = tiny.sparse_run(config).start()._replace(task_slots=None)
    with pytest.raises(ValueError, match="granularity='per_task': select the task's slots before"):
        one_step(tiny.model_config(), config, state)


def test_a_rule_without_its_background_is_refused():
    with pytest.raises(ValueError, match="rule='tfidf' .* none was given"):
        one_step(tiny.model_config(), SparseConfig(optimizer=SGD))


def test_a_model_without_memory_is_refused():
    plain = Decoder(tiny.PLAIN)
    with pytest.raises(ValueError, match="the model has no memory: pretrain or retrofit one"):
        read_counts(plain, tiny.params(tiny.PLAIN), tiny.batch())


def test_what_lies_below_the_memory_is_computed_once_and_changes_no_bit():
    """A deep model's step begins at its lowest memory; rows that are no examples fail it."""
    config = tiny.model_config((5,))
    trainer = sparse_trainer(Decoder(config), SparseConfig(rule="tf"), 64)
    assert trainer.lower is not None
    base, settings, batch = tiny.params(config), tiny.settings(), tiny.batch()
    shared = Shared(trainer.frozen(base))
    step = jax.jit(trainer.step)
    whole = step(shared, trainer.begin(base, settings), batch, settings)
    lower = Lower(jnp.asarray(batch.tokens), jax.jit(trainer.lower)(shared, batch))
    kept = step(shared._replace(lower=lower), trainer.begin(base, settings), batch, settings)
    for found, expected in zip(*map(jax.tree.leaves, (kept, whole)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert int(kept[0].failed_step) == -1
    other = lower._replace(tokens=lower.tokens + 1)
    lost, _ = step(shared._replace(lower=other), trainer.begin(base, settings), batch, settings)
    assert int(lost.failed_step) == 0
