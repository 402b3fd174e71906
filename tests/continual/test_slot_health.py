"""Slot health of a run: of its background, of its trials' models, and what a resume keeps of it."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from smf_jax import checkpoints
from smf_jax.bases.base import load_base
from smf_jax.continual import slot_health as health
from smf_jax.continual.grid import grid
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.slot_health import HEALTH, Recount, measure_slot_health, read_slot_health
from smf_jax.continual.stream_data import load_stream_data
from smf_jax.continual.sweep_state import Sweep
from smf_jax.data.batching import Batch
from smf_jax.evaluation.slot_health import slot_health, usage_drift
from smf_jax.training.reads import read_counts

POOL = "memory/pool_0/values"
FULL, SMF = "full-adamw-lr0.01-s0", "smf-tfidf-sgd-t64-lr30-s0"


@pytest.fixture(scope="module")
def base(finished):
    return load_base(str(finished / "base"), "base")


@pytest.fixture(scope="module")
def text(sweeper, base, finished) -> Batch:
    """The first three of the four batches of background."""
    config = sweeper.config(finished)
    rows = config.background.background_batch_size
    (batches,) = load_stream_data(config, base).background_batches(4, rows)
    return Batch(*(field[:3].reshape(-1, field.shape[-1]) for field in batches))


@pytest.fixture(scope="module")
def count(base, text):
    """Accesses of the text by any leaves, in one piece."""
    read = jax.jit(lambda params: read_counts(base.model, params, text))
    return lambda params: np.asarray(read(params)[POOL])


def test_the_background_and_the_base_are_healthy_before_the_stream(finished, base, count):
    found = read_slot_health(finished)
    arrays, _ = checkpoints.load(finished / "base" / "background")
    expected = dataclasses.asdict(slot_health(arrays[f"{POOL}/accesses"]))
    assert found["background"] == {"batches": 4, "pools": {POOL: expected}}
    expected = dataclasses.asdict(slot_health(count(base.params)))
    assert found["recount"]["pools"] == {POOL: expected}
    assert found["recount"]["batches"] == 3
    assert 0 < expected["used_share"] <= 1


def test_a_trial_is_counted_after_its_last_task(finished, base, count):
    trials = read_slot_health(finished)["trials"]
    rows = RunDirectory(str(finished)).rows()
    assert trials.keys() == {row["trial"] for row in rows}
    run = RunDirectory(str(finished))
    trial, task = run.find_trial(FULL)
    params = run.load_model(trial, task, base.params, base.fingerprint())
    before, after = count(base.params), count(params)
    assert (before != after).any()  # full finetuning moves the routing
    found = trials[FULL]
    assert found["task"] == task == 1
    drift = found["pools"][POOL].pop("drift")
    assert found["pools"][POOL] == dataclasses.asdict(slot_health(after))
    assert drift == pytest.approx(usage_drift(before, after)) and drift > 0


def test_writing_the_only_table_moves_no_routing(finished):
    found = read_slot_health(finished)
    pools = found["trials"][SMF]["pools"][POOL]
    assert pools.pop("drift") == 0
    assert pools == found["recount"]["pools"][POOL]


def test_only_leaves_that_routing_hangs_on_are_counted_anew(base, text, monkeypatch):
    recount = Recount(base, [text], 32)
    counted = []
    monkeypatch.setattr(recount, "_count", lambda params: counted.append(params) or {})
    written = {**base.params, POOL: base.params[POOL] + 1}
    assert recount.after(written) is recount.before
    assert counted == [base.params]
    moved = {**base.params, "embedder/embedding": base.params["embedder/embedding"] + 1}
    recount.after(moved)
    assert counted[1] is moved


def sweep_of(config, base, run: RunDirectory) -> Sweep:
    """A sweep that has run."""
    stream_data = load_stream_data(config, base)
    return Sweep(config, base, base.fingerprint(), stream_data, None, run)


def test_a_resume_keeps_what_was_measured_and_other_settings_measure_anew(
    sweeper, finished, base, tmp_path, monkeypatch
):
    config = sweeper.config(finished, recount_batches=3)
    run, trials = RunDirectory(str(finished)), grid(config.grid)
    kept = RunDirectory(str(tmp_path))
    monkeypatch.setattr(kept, "completed", run.completed)
    (tmp_path / "trials").symlink_to(finished / "trials")
    (tmp_path / f"{HEALTH}.json").write_text((finished / f"{HEALTH}.json").read_text())
    monkeypatch.setattr(Recount, "_count", None)
    measure_slot_health(sweep_of(config, base, kept), None, trials)
    found = read_slot_health(tmp_path)
    whole = read_slot_health(finished)
    assert (found["trials"], found["recount"]) == (whole["trials"], whole["recount"])
    with pytest.raises(TypeError):  # another text is counted again, if it may be
        other = config.with_values(recount_batches=2)
        measure_slot_health(sweep_of(other, base, kept), None, trials)


def test_shards_have_files_of_their_own_and_are_read_together(tmp_path):
    for number, shard in enumerate(("0/2", "1/2")):
        part = {"background": None, "recount": {"batches": 3}, "trials": {f"t{number}": {}}}
        RunDirectory(str(tmp_path), shard).write_sidecar(HEALTH, part)
    assert {path.name for path in tmp_path.iterdir()} == {
        "slot_health-0-of-2.json",
        "slot_health-1-of-2.json",
    }
    assert RunDirectory(str(tmp_path)).sidecar(HEALTH).name == "slot_health.json"
    found = read_slot_health(tmp_path)
    assert found["trials"].keys() == {"t0", "t1"} and found["recount"] == {"batches": 3}


def test_a_base_without_memory_has_no_slots_to_look_at(sweeper, plain_checkpoint, tmp_path):
    plain = load_base(str(plain_checkpoint), "base")
    run, config = RunDirectory(str(tmp_path)), sweeper.config(tmp_path)
    sweep = Sweep(config, plain, "", None, None, run, ())  # pyright: ignore[reportArgumentType]
    measure_slot_health(sweep, None, ())
    assert not list(tmp_path.iterdir())
    assert read_slot_health(tmp_path)["trials"] == {}


def test_without_a_recount_the_background_alone_is_told(sweeper, base, finished, tmp_path):
    arrays, about = checkpoints.load(finished / "base" / "background")
    background = health.Background.from_arrays(arrays, about)
    config = sweeper.config(tmp_path)
    assert config.background.recount_batches == 0
    run = RunDirectory(str(tmp_path))
    measure_slot_health(sweep_of(config, base, run), background, grid(config.grid))
    found = json.loads((tmp_path / "slot_health.json").read_text())
    assert found["recount"] is None and found["trials"] == {}
    assert found["background"] == read_slot_health(finished)["background"]
