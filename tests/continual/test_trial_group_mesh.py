"""Trials on a mesh: the selections of one device, its floats to rounding.

``python -m tests.meshes`` runs all meshes; here is the one with devices along every axis.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from smf_jax.continual.trial_group import TrialGroup
from smf_jax.data.packing import pack_rows
from smf_jax.mesh import DATA, MEMORY, TRIAL, make_mesh
from smf_jax.models.config import MemoryPlacement
from smf_jax.models.decoder import Decoder
from smf_jax.params import pool_path
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.sparse.usage import PoolUsage
from smf_jax.split_tables import TableLayout, is_split
from smf_jax.tables import empty_table, explicit, is_implicit, on_host
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from tests.training import tiny

# Two pools of 256 rows of 8 numbers: eight devices divide both.
MEMORY_SHAPE = replace(tiny.MEMORY, keys_per_half=16, value_width=8)
PLACEMENT = MemoryPlacement((0, 1), "pretrain", MEMORY_SHAPE)
MODEL = replace(tiny.model_config(layers=(0, 1)), memory=PLACEMENT)
AT_ZERO = replace(MODEL, memory=replace(PLACEMENT, mode="add", init_rows="zero"))
SLOTS, POOLS = MEMORY_SHAPE.slots, [pool_path(0), pool_path(1)]
STEPS, ROWS = 2, 8
TRIALS = [tiny.settings(0.02, 5, seed=0), tiny.settings(0.05, 11, seed=1)]
# Clipping and moments see whole rows of all pools.
CHOICES = SparseConfig(optimizer=OptimizerConfig("adamw", clip=0.05), micro_batches=1)


class Case(NamedTuple):
    """A mesh, how tables lie on it, and how rows are chosen."""

    sizes: dict[str, int]
    layout: TableLayout = "columns"
    config: SparseConfig = CHOICES
    at_zero: bool = False  # tables that hold written rows only


BY_MASS = replace(CHOICES, rule="mass")
CASES = {
    "data": Case({DATA: 8}),
    "memory columns": Case({MEMORY: 8}),
    "memory rows": Case({MEMORY: 8}, "rows"),
    "memory at zero": Case({MEMORY: 8}, at_zero=True),
    "all": Case({TRIAL: 2, DATA: 2, MEMORY: 2}, "rows", BY_MASS),
    "all at zero": Case({TRIAL: 2, DATA: 2, MEMORY: 2}, at_zero=True),
}
# What one device does, to compare with.
CASES |= {
    "alone": Case({}),
    "alone mass": Case({}, config=BY_MASS),
    "alone at zero": Case({}, at_zero=True),
}


def usage():
    rng = np.random.default_rng(3)
    df = rng.integers(0, 9, SLOTS).astype(np.int32)
    return {pool: PoolUsage(jax.numpy.asarray(df), jax.numpy.asarray(df), jax.numpy.int32(8))
            for pool in POOLS}  # fmt: skip


def base_of(case: Case) -> dict[str, Any]:
    """The leaves that trials begin with."""
    if not case.at_zero:
        return tiny.params(MODEL)
    added = replace(AT_ZERO, memory=replace(PLACEMENT, mode="add"))
    return {**tiny.params(added), **{pool: empty_table(SLOTS, 8) for pool in POOLS}}


@cache
def group(name: str) -> TrialGroup:
    case = CASES[name]
    model = Decoder(AT_ZERO if case.at_zero else MODEL)
    trainer = sparse_trainer(model, case.config, capacity=64)
    devices = jax.devices()[: int(np.prod([*case.sizes.values()]))]
    mesh = make_mesh(case.sizes, devices)
    return TrialGroup(trainer, base_of(case), usage(), mesh, 8, case.layout)


def alone_of(case: Case) -> str:
    return "alone" + " at zero" * case.at_zero + " mass" * (case.config is BY_MASS)


def batches_of(trial, task):
    made = [tiny.batch(50 * task + 10 * trial + step, ROWS) for step in range(STEPS)]
    return type(made[0])(*(np.stack(fields) for fields in zip(*made, strict=True)))


class Found(NamedTuple):
    """What trials have come to after a task."""

    losses: np.ndarray
    written: dict[str, np.ndarray]
    tables: list[dict[str, np.ndarray]]


PROBE = tiny.batch(5, rows=11)


def taught(of: TrialGroup, trials: list[int], task: int, saved=None) -> Any:
    """States of trials after a task, which some begin with what they have saved."""
    state, settings = of.begin([TRIALS[trial] for trial in trials])
    if saved is not None:
        state = of.resume(state, settings, dict(enumerate(saved)))
    told = [batches_of(trial, task) for trial in trials]
    state, metrics = of.train(state, told, batches_of(9, 9), settings)
    assert metrics.failed_step.tolist() == [-1] * len(trials)
    return state, metrics


def found(of: TrialGroup, trials: list[int]) -> Found:
    """What a task leads to."""
    state, metrics = taught(of, trials, 0)
    parts = of.mesh.shape[MEMORY]
    if parts > 1:
        stored = [t.rows if is_implicit(t) else t for t in state.tables.values()]
        assert all(map(is_split, stored))
        assert is_split(state.stores[POOLS[0]].opt_state[0][0].mu)
        part = stored[0].part.addressable_shards[0].data
        assert part.size == len(stored[0]) * 8 // parts
    tables = [jax.device_get(of.trained(state, place)) for place in range(len(trials))]
    return Found(
        metrics.losses,
        jax.device_get(state.written),
        [{pool: np.asarray(explicit(of_trial[pool])) for pool in POOLS} for of_trial in tables],
    )


@cache
def alone(name: str, trial: int) -> Found:
    return found(group(name), [trial])


@pytest.mark.parametrize("name", ["all"])
def test_a_mesh_gives_what_one_device_gives(name):
    case = CASES[name]
    trials = list(range(case.sizes.get(TRIAL, 1)))
    many, base = found(group(name), trials), base_of(case)
    for place, trial in enumerate(trials):
        one = alone(alone_of(case), trial)
        np.testing.assert_allclose(many.losses[place], one.losses[0], rtol=1e-5)
        for pool in POOLS:
            np.testing.assert_array_equal(many.written[pool][place], one.written[pool][0])
            before, after = np.asarray(explicit(base[pool])), one.tables[0][pool]
            moved = np.abs(after - before)
            assert moved.max() > 0.01
            # Adam turns rounding of a tiny gradient into a visible step: half a percent of one.
            np.testing.assert_allclose(
                many.tables[place][pool], after, rtol=0, atol=5e-3 * moved.max()
            )
            untouched = (moved == 0).all(axis=1)
            same = many.tables[place][pool][untouched].view(np.int32)
            np.testing.assert_array_equal(same, after[untouched].view(np.int32))


@pytest.mark.parametrize("name", ["all"])
def test_what_a_mesh_has_saved_goes_on_anywhere_and_is_probed_alike(name):
    of, probe = group(name), tiny.batch(5, rows=11)
    lengths = np.array([2, 3, 2, 4, 3, 2, 5, 4, 8, 3, 3])
    valid = np.arange(8) < lengths[:, None]
    weights = 1.0 * valid * (np.arange(8) == 1)  # one target, or hardly one would be answered
    asked = pack_rows(probe._replace(valid=valid, weights=weights), [11])
    assert asked.number.max() > 1
    state, _ = taught(of, [0, 1], 0)
    saved = [
        {path: on_host(leaf) for path, leaf in of.saved(state, place).items()} for place in range(2)
    ]
    state, metrics = taught(of, [0, 1], 1, saved)
    one = group(alone_of(CASES[name]))
    alone, of_one = taught(one, [1], 1, saved[1:])
    np.testing.assert_allclose(metrics.losses[1], of_one.losses[0], rtol=1e-5)
    np.testing.assert_array_equal(of.answers(state, asked)[1], one.answers(alone, asked)[0])
    np.testing.assert_allclose(
        of.text_losses(state, probe)[1], one.text_losses(alone, probe)[0], rtol=1e-5
    )
