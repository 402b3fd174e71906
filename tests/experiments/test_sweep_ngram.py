"""A sweep on a base that is retrofitted with hashed n-gram memories, from end to end."""

from __future__ import annotations

import numpy as np
import pytest

from experiments import export
from experiments.export import ExportConfig
from smf_jax.bases.base import load_base
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.slot_health import read_slot_health
from smf_jax.interop.export.model import load_exported
from smf_jax.params import is_pool
from smf_jax.sparse.patch import apply_patch, revert_patch
from smf_jax.tables import explicit
from tests.continual.same_runs import assert_goes_on
from tests.tiny_sweep import added_at_zero, rows_of

POOL = "memory/pool_0/values"


@pytest.fixture(scope="module")
def flags(plain_checkpoint, tmp_path_factory):
    place = tmp_path_factory.mktemp("files")
    return dict(
        **added_at_zero(plain_checkpoint, place),
        router="ngram",
        methods="smf",
        slots="16",
        lr="0.5,1",
        optimizer="adam",
        tasks=2,
        facts_per_task=4,
        steps_per_task=3,
        recount_batches=1,
    )


@pytest.fixture(scope="module")
def run(sweeper, flags, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    assert sweeper(out, devices=2, **flags) == 0
    return out


def test_it_trains_rows_alone_and_its_patches_come_off_again(run):
    rows = rows_of(run)
    assert len(rows) == 4 and {row["task"] for row in rows} == {0, 1}
    directory, base = RunDirectory(str(run)), load_base(str(run / "base"), "base")
    assert base.config.memory and base.config.memory.memory.router == "ngram"
    for name in {row["trial"] for row in rows}:
        trial, tasks = directory.find_trial(name)
        patches = directory.load_patches(trial, 2)
        trained = directory.load_model(trial, tasks, base.params, base.fingerprint())
        for path, leaf in trained.items():
            if not is_pool(path):
                assert np.asarray(leaf).tobytes() == np.asarray(base.params[path]).tobytes()
        changed = set().union(*(patch.pools[POOL].slots.tolist() for patch in patches))
        assert 16 < len(changed) <= 2 * 3 * 16
        table = explicit(trained[POOL])
        assert set(np.flatnonzero(table.any(axis=1)).tolist()) == changed
        state = base.params
        for patch in patches:
            state = apply_patch(state, patch, base=base.fingerprint())
        assert explicit(state[POOL]).tobytes() == table.tobytes()
        for patch in reversed(patches):
            state = revert_patch(state, patch)
        assert not explicit(state[POOL]).any()


def test_a_stream_moves_no_address(run):
    """Ids alone name the slots: a recount with what was trained is that of the base."""
    found = read_slot_health(run)
    assert found["recount"]["pools"] and len(found["trials"]) == 2
    for of_trial in found["trials"].values():
        assert of_trial["pools"][POOL]["drift"] == 0


def test_a_killed_run_goes_on_bit_for_bit(sweeper, flags, run, tmp_path):
    assert_goes_on(sweeper, {**flags, "devices": 2}, run, tmp_path / "run")


def test_it_is_exported_for_this_library_alone(run, tmp_path):
    (name, *_) = {row["trial"] for row in rows_of(run)}
    out = tmp_path / "out"
    assert export.main(ExportConfig.of(run=str(run), trial=name, out=str(out))) == 0
    directory, base = RunDirectory(str(run)), load_base(str(run / "base"), "base")
    trained = directory.load_model(*directory.find_trial(name), base.params, base.fingerprint())
    exported = load_exported(out)
    assert explicit(exported.params[POOL]).tobytes() == explicit(trained[POOL]).tobytes()
    assert not (out / "pytorch_memory.py").exists()
    assert "hashed n-gram memories" in (out / "README.md").read_text()
