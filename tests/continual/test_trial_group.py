"""Trials side by side: the numbers of one device, one compilation, probes, and a resume."""

from __future__ import annotations

from functools import cache, partial

import jax
import numpy as np
import pytest

from smf_jax.continual import trial_group
from smf_jax.continual.trial_group import TrialGroup
from smf_jax.data.batching import Batch
from smf_jax.data.packing import one_to_a_row, pack_rows
from smf_jax.evaluation.probes.exact import is_exact_match
from smf_jax.losses import weighted_loss
from smf_jax.mesh import TRIAL, device_mesh
from smf_jax.models.decoder import Decoder
from smf_jax.params import pool_path, unflatten
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.trainers import lora_trainer
from tests.training import tiny

MODEL, POOL = tiny.model_config(), pool_path(0)
STEPS, PROBE_ROWS = 3, 4
# The last one fails at its first step.
TRIALS = [tiny.settings(0.01 * (i + 1), 1 + 9 * i, seed=i) for i in range(7)]
TRIALS = [*TRIALS, tiny.settings(np.inf)]


@cache
def sparse_group(devices: int) -> TrialGroup:
    choices = SparseConfig(optimizer=OptimizerConfig("adamw"))
    trainer = sparse_trainer(Decoder(MODEL), choices, capacity=tiny.SLOTS)
    mesh = device_mesh(TRIAL, jax.devices()[:devices])
    return TrialGroup(trainer, tiny.params(MODEL), tiny.usage(MODEL), mesh, PROBE_ROWS)


@cache
def lora_group(devices: int) -> TrialGroup:
    trainer = lora_trainer(Decoder(MODEL), OptimizerConfig("sgd"), 2, 4.0, ("query", "value"))
    mesh = device_mesh(TRIAL, jax.devices()[:devices])
    return TrialGroup(trainer, tiny.params(MODEL), None, mesh, PROBE_ROWS)


def batches_of(trial, task):
    return tiny.batches(STEPS, start=100 * task + 10 * trial)


def taught(group, trials, tasks=2):
    """States after some tasks, the settings, and what each task measured."""
    state, settings = group.begin([TRIALS[trial] for trial in trials])
    measured = []
    for task in range(tasks):
        state, metrics = group.train(
            state, [batches_of(trial, task) for trial in trials], tiny.batches(2), settings
        )
        measured.append(metrics)
    return state, settings, measured


@pytest.fixture(scope="module")
def eight():
    """All trials at once, after two tasks."""
    return taught(sparse_group(8), range(8))


def each_alone(batch):
    return one_to_a_row(batch, [len(batch.tokens)])


def bits(array):
    return np.asarray(array).view(np.int32)


@pytest.mark.parametrize("trial", [0, 4, 7])
def test_eight_devices_give_the_numbers_of_one(eight, trial):
    state, _, measured = eight
    alone, _, measured_alone = taught(sparse_group(1), [trial])
    for many, one in zip(measured, measured_alone, strict=True):
        assert many.losses.shape == (8, STEPS) and one.losses.shape == (1, STEPS)
        np.testing.assert_array_equal(bits(many.losses[trial]), bits(one.losses[0]))
        np.testing.assert_array_equal(many.selected[trial], one.selected[0])
        assert many.failed_step[trial] == one.failed_step[0] == (0 if trial == 7 else -1)
    theirs = sparse_group(8).trained(state, trial)
    own = sparse_group(1).trained(alone, 0)
    assert theirs.keys() == own.keys() == {POOL}
    np.testing.assert_array_equal(bits(theirs[POOL]), bits(own[POOL]))
    probe, text = tiny.batch(5, rows=6), tiny.batch(6, rows=7)
    np.testing.assert_array_equal(
        sparse_group(8).answers(state, each_alone(probe))[trial],
        sparse_group(1).answers(alone, each_alone(probe))[0],
    )
    losses = sparse_group(8).text_losses(state, text)
    assert losses[trial] == sparse_group(1).text_losses(alone, text)[0]


def test_adapters_learn_alike_on_one_device_and_on_several():
    trial = 2
    many, _, measured = taught(lora_group(4), range(4), tasks=1)
    alone, _, measured_alone = taught(lora_group(1), [trial], tasks=1)
    # XLA fuses, hence rounds, a program of one partition otherwise than one of several.
    losses = measured[0].losses[trial], measured_alone[0].losses[0]
    np.testing.assert_allclose(*losses, rtol=1e-6)
    assert losses[0][-1] < losses[0][0]
    theirs, own = lora_group(4).trained(many, trial), lora_group(1).trained(alone, 0)
    start = lora_group(1).trainer.begin(tiny.params(MODEL), TRIALS[trial]).params
    assert theirs.keys() == own.keys() == start.keys()
    for path in own:
        moved = np.abs(own[path] - start[path]).max()
        assert moved > 0
        np.testing.assert_allclose(theirs[path], own[path], rtol=0, atol=1e-5 * moved)


def test_budgets_and_rates_of_a_group_share_one_compilation(eight):
    _, _, measured = eight
    group = sparse_group(8)
    assert group.traces == 1
    for metrics in measured:
        np.testing.assert_array_equal(metrics.selected[:5, 0], [1, 10, 19, 28, 37])
    taught(group, [3, 1, 0, 2, 6, 5, 4, 7], tasks=1)
    assert group.traces == 1


def test_a_trial_that_fails_keeps_its_base_and_troubles_no_other(eight):
    state, _, measured = eight
    base = tiny.params(MODEL)[POOL]
    assert [metrics.failed_step.tolist() for metrics in measured] == [[-1] * 7 + [0]] * 2
    assert not measured[0].selected[7].any()
    np.testing.assert_array_equal(bits(sparse_group(8).trained(state, 7)[POOL]), bits(base))
    assert np.isfinite(state.tables[POOL]).all()


def test_a_resumed_trial_goes_on_as_if_nothing_had_happened(eight):
    state, _, measured = eight
    group, trials = sparse_group(8), [*range(7), 0]
    first, settings, _ = taught(group, trials, tasks=1)
    saved = [jax.device_get(group.trained(first, place)) for place in range(8)]
    again, settings = group.begin([TRIALS[trial] for trial in trials])
    again = group.resume(again, settings, dict(enumerate(saved)))
    again, metrics = group.train(
        again, [batches_of(trial, 1) for trial in trials], tiny.batches(2), settings
    )
    np.testing.assert_array_equal(bits(metrics.losses[:7]), bits(measured[1].losses[:7]))
    np.testing.assert_array_equal(bits(again.tables[POOL][:7]), bits(state.tables[POOL][:7]))
    np.testing.assert_array_equal(bits(again.tables[POOL][7]), bits(state.tables[POOL][0]))


def test_probes_ask_the_model_as_trained_so_far(eight):
    state, _, _ = eight
    group = sparse_group(8)
    probe = tiny.batch(5, rows=6)
    right, losses = group.answers(state, each_alone(probe)), group.text_losses(state, probe)
    assert right.shape == (8, 6) and right.dtype == bool and len(losses) == 8

    @jax.jit
    def logits_of(params):
        return Decoder(MODEL).apply({"params": unflatten(params)}, probe.tokens, probe.valid)

    for trial in (1, 7):
        logits = logits_of({**tiny.params(MODEL), **group.trained(state, trial)})
        np.testing.assert_array_equal(right[trial], is_exact_match(logits, probe))
        truth = weighted_loss(logits, probe.targets, probe.weights)
        assert losses[trial] == pytest.approx(float(truth), rel=1e-6)
    assert len(set(losses)) == 8, "every trial is another model"


def test_questions_that_share_a_row_are_answered_as_alone(eight):
    """Of two trials, and some questions with what the trial itself says of them."""
    state, _, _ = eight
    group, probe = sparse_group(8), tiny.batch(5, rows=9)
    lengths = np.array([2, 3, 2, 4, 3, 2, 5, 4, 8])
    probe = probe._replace(valid=np.arange(8) < lengths[:, None])
    probe = probe._replace(weights=1.0 * probe.valid * (np.arange(8) > 0))

    @jax.jit
    def logits_of(params):
        return Decoder(MODEL).apply({"params": unflatten(params)}, probe.tokens, probe.valid)

    for trial in (1, 6):
        logits = logits_of({**tiny.params(MODEL), **group.trained(state, trial)})
        said = np.argmax(logits, axis=-1).astype(np.int32)
        asked = probe._replace(targets=np.where(np.arange(9)[:, None] % 2, probe.targets, said))
        packed = pack_rows(asked, [9])
        assert len(packed.rows.tokens) < 9 and packed.number.max() > 1
        found = group.answers(state, packed)[trial]
        np.testing.assert_array_equal(found, is_exact_match(logits, asked))
        assert found[::2].all() and not found.all()


def test_the_frozen_base_is_placed_once_per_device():
    group = sparse_group(8)
    frozen, base = group._shared.frozen, group._base
    assert frozen.keys() == base.keys() - {POOL}
    assert all(frozen[path] is base[path] for path in frozen)
    assert all(len(leaf.sharding.device_set) == 8 for leaf in frozen.values())


def test_as_many_trials_as_devices():
    with pytest.raises(ValueError, match="settings of 3 trials, the mesh runs 8"):
        sparse_group(8).begin(TRIALS[:3])


def test_batches_of_another_shape_are_refused(eight):
    group = sparse_group(1)
    state, settings = group.begin(TRIALS[:1])
    taught(group, [0], tasks=1)
    longer = Batch(*(np.concatenate([field, field], axis=-1) for field in batches_of(0, 0)))
    with pytest.raises(RuntimeError, match="traced twice: its batches changed shape or dtype"):
        group.train(state, [longer], tiny.batches(2), settings)
    assert group.traces == 2
    group.traces = 1


def test_a_deep_model_begins_at_its_memory_whether_what_is_below_is_kept_or_not(monkeypatch):
    config = tiny.model_config((5,))
    settings = [tiny.settings(0.5, seed=seed) for seed in (0, 1)]
    batches = [tiny.batches(3), tiny.batches(3, start=1)]
    examples = tiny.batches(4)
    ends = []
    for room in (None, 0):  # of the default size, then for nothing
        if room is not None:
            monkeypatch.setattr(trial_group, "LOWER_BYTES", room)
        trainer = sparse_trainer(Decoder(config), SparseConfig(rule="tf"), tiny.SLOTS)
        group = TrialGroup(
            trainer, tiny.params(config), None, device_mesh(TRIAL, jax.devices()[:2]), 4
        )
        state, stacked = group.begin(settings)
        state, measured = group.train(state, batches, examples, stacked)
        assert measured.failed_step.tolist() == [-1, -1] and group.traces == 1
        ends.append((measured.losses, group.trained(state, 1)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), *ends)


def test_what_lies_below_the_memory_is_computed_once_for_a_probe(monkeypatch):
    """Rows in other company, a trial after tasks, and no room give the numbers of whole passes."""
    trainer = sparse_trainer(Decoder(tiny.model_config((5,))), SparseConfig(rule="tf"), tiny.SLOTS)
    below, calls = trainer.lower, []
    assert below is not None

    def lower(shared, batch):
        jax.debug.callback(lambda: calls.append(len(batch.tokens)))
        return below(shared, batch)

    base, probe = tiny.params(tiny.model_config((5,))), tiny.batch(9)
    mesh = device_mesh(TRIAL, jax.devices()[:1])
    found = []
    for room in (2**29, 0):
        monkeypatch.setattr(trial_group, "LOWER_BYTES", room)
        group = TrialGroup(trainer._replace(lower=lower), base, None, mesh, 4)
        state, settings = group.begin([tiny.settings(0.5)])
        before = group.text_losses(state, probe)
        state, _ = group.train(state, [tiny.batches(3)], tiny.batches(4), settings)
        calls.clear()
        after = group.text_losses(state, probe)
        turned = Batch(*(field[::-1] for field in probe))
        found.append((before, after, group.answers(state, each_alone(turned))))
        jax.effects_barrier()
        assert calls == ([] if room else [4, 4])
        assert before != after
    for kept, anew in zip(*found, strict=True):
        np.testing.assert_allclose(kept, anew, rtol=1e-5)
    trainer = trainer._replace(lower=None)
    group = TrialGroup(trainer, base, None, mesh, 4)
    whole = group.text_losses(group.begin([tiny.settings(0.5)])[0], probe)
    np.testing.assert_allclose(found[0][0], whole, rtol=1e-5)
