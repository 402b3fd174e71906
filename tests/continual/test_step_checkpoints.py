"""A run that is killed within a task goes on within it, to the bits of one that was not."""

from __future__ import annotations

import re
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smf_jax import checkpoints
from smf_jax.checkpoints.run_lock import RunLocks
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.step_checkpoints import StepCheckpoints
from smf_jax.continual.step_log import Begun
from smf_jax.continual.trial import Trial
from smf_jax.continual.writer import Writer
from tests.continual.same_runs import assert_same_run
from tests.tiny_sweep import Killed, added_at_zero

EVERY = 2  # of six steps: saved after the second and the fourth
METHODS: dict[str, dict[str, Any]] = {
    "smf": dict(methods="smf", slots="16,64", lr="0.03", optimizer="adam"),
    "full": dict(methods="full", lr="1e-3", optimizer="adamw"),
    "lora": dict(methods="lora", lr="0.01", optimizer="adam"),
    "all rows leak": dict(methods="smf", slots="16", lr="0.03", optimizer="adam", leaky=True),
    "per task": dict(
        methods="smf", slots="16", lr="0.03", optimizer="momentum", granularity="per_task"
    ),
    "what was written is protected": dict(
        methods="smf", slots="16", lr="30", optimizer="sgd", protect_written=1.0
    ),
}


def steps_of(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run / "trials")) for path in run.glob("trials/*/step_*"))


@contextmanager
def killed_at(number: int, half: bool = False):
    """The machine dies when the n-th write is whole, or while it is under way."""
    write, save, seen = StepCheckpoints.write, checkpoints.save, [0]

    def dying(self, *told):
        write(self, *told)
        seen[0] += 1
        if seen[0] == number:
            if not half:
                self._writer.wait()
            raise Killed

    def half_saved(path, *told, **more):
        save(path, *told, **more)
        if str(path).endswith(f"step_00_{number * EVERY:09d}"):
            shutil.rmtree(Path(path) / "manifest")
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(StepCheckpoints, "write", dying)
        if half:
            patch.setattr(checkpoints, "save", half_saved)
        yield


@pytest.fixture
def begun(monkeypatch) -> list[int]:
    """The steps from which trials went on."""
    steps, load = [], StepCheckpoints.load

    def told(self, path):
        found = load(self, path)
        steps.append(found[0].step)
        return found

    monkeypatch.setattr(StepCheckpoints, "load", told)
    return steps


@pytest.mark.parametrize("method", METHODS)
def test_a_kill_within_a_task_costs_no_bit(sweeper, tmp_path, begun, method):
    given, whole, out = METHODS[method], tmp_path / "whole", tmp_path / "killed"
    assert sweeper(whole, devices=2, **given) == 0
    with killed_at(4):  # the second of the second task
        sweeper(out, devices=2, save_every=EVERY, **given)
    kept = steps_of(out)
    assert all(name.endswith("/step_01_000000004") for name in kept)
    assert len(kept) == (2 if "," in given.get("slots", "") else 1)
    assert sweeper(out, devices=2, resume=True, **given) == 0
    assert begun == [4] * len(kept)
    assert_same_run(out, whole)
    assert steps_of(out) == []


def test_of_trials_side_by_side_each_goes_on_from_its_own_step(sweeper, tmp_path, begun):
    given, whole, out = METHODS["smf"], tmp_path / "whole", tmp_path / "killed"
    assert sweeper(whole, devices=2, **given) == 0
    save, seen = checkpoints.save, [0]

    def dying(path, *told, **more):
        seen[0] += "step_" in str(path)
        if seen[0] == 4:  # the second one of the second trial
            raise Killed
        save(path, *told, **more)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoints, "save", dying)
        sweeper(out, devices=2, save_every=EVERY, **given)
    assert [name.rpartition("_")[2] for name in steps_of(out)] == ["000000004", "000000002"]
    assert sweeper(out, devices=2, resume=True, save_every=EVERY, **given) == 0
    assert begun == [4, 2]
    assert_same_run(out, whole)


def test_what_was_half_written_is_not_read_and_goes(sweeper, tmp_path, begun):
    given, whole, out = METHODS["full"], tmp_path / "whole", tmp_path / "killed"
    assert sweeper(whole, **given) == 0
    with killed_at(2, half=True):
        sweeper(out, save_every=EVERY, **given)
    assert [name.rpartition("/")[2] for name in steps_of(out)] == [
        "step_00_000000002",
        "step_00_000000004",
    ]
    assert sweeper(out, resume=True, save_every=EVERY, **given) == 0
    assert begun == [2]
    assert_same_run(out, whole)
    assert steps_of(out) == []


def test_an_optimizer_that_outlives_tasks_need_not_be_replayed(sweeper, tmp_path, begun):
    for method in ("smf", "full"):
        given = {**METHODS[method], "keep_optimizer_state": True}
        whole, out = tmp_path / f"{method}-whole", tmp_path / f"{method}-killed"
        assert sweeper(whole, devices=2, **given) == 0
        with killed_at(4):
            sweeper(out, devices=2, save_every=EVERY, **given)
        assert sweeper(out, devices=2, resume=True, **given) == 0
        assert_same_run(out, whole)
    assert begun == [4, 4, 4]


def test_on_a_table_that_starts_at_zero_too(sweeper, plain_checkpoint, tmp_path, begun):
    given: dict[str, Any] = dict(
        **added_at_zero(plain_checkpoint, tmp_path),
        reads=3,
        key_width=8,
        **METHODS["smf"],
    )
    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert sweeper(whole, devices=2, **given) == 0
    with killed_at(4):
        sweeper(out, devices=2, save_every=EVERY, **given)
    manifest = checkpoints.read_manifest(next(out.glob("trials/*/step_*")))
    held = sum(np.prod(leaf.shape) for leaf in manifest.leaves.values())
    assert held < 32 * 32 * 64  # of the table's rows those in use
    assert sweeper(out, devices=2, resume=True, **given) == 0
    assert begun == [4, 4]
    assert_same_run(out, whole)


TRIAL = Trial("full", None, None, None, "adamw", 1e-3, 0, "shuffled")


@pytest.fixture
def steps(tmp_path) -> StepCheckpoints:
    config = SweepConfig.of(methods="full", out=str(tmp_path / "run"))
    run = RunDirectory(config.run.out)
    run.open(config)
    return StepCheckpoints(run, "base", Writer())


def some(step: int) -> dict[Trial, Begun]:
    ramp = np.arange(step)
    return {TRIAL: Begun(step, {"a/b": ramp * 3}, ramp.astype(np.float32), ramp.astype(np.int32))}


def test_one_is_kept_and_its_damage_is_told(steps):
    for step in (1, 2, 3):
        steps.write(7, some(step), {TRIAL: 0.5 * step})
        steps._writer.wait()
        path = steps.find(TRIAL, 7)
        assert path is not None and len(list(path.parent.iterdir())) == 1
    begun, seconds = steps.load(path)
    assert (begun.step, seconds) == (3, 1.5) and begun.state["a/b"].tolist() == [0, 3, 6]
    assert begun.losses.tolist() == begun.selected.tolist() == [0, 1, 2]
    of_another = StepCheckpoints(steps._run, "another", Writer())
    with pytest.raises(ValueError, match="belongs to another base"):
        of_another.load(path)
    file = path / "manifest" / "data.json"
    file.write_text(file.read_text().replace('"seconds": 1.5', '"seconds": 2.5'))
    with pytest.raises(ValueError, match=f"Or remove {re.escape(str(path))}: its task is then run"):
        steps.load(path)
    assert steps.find(TRIAL, 6) is None and not path.exists()  # of a task that is none any more


def test_who_lost_the_lock_writes_none_and_removes_none_of_the_others(steps, monkeypatch):
    steps.write(1, some(4), {TRIAL: 1.0})
    steps._writer.wait()
    kept = steps.find(TRIAL, 1)

    def taken(self):
        raise OSError("the lock was taken")

    monkeypatch.setattr(RunLocks, "require", taken)
    with pytest.raises(OSError, match="the lock was taken"):
        steps.write(1, some(6), {TRIAL: 1.0})
        steps._writer.wait()
    assert steps.find(TRIAL, 1) == kept and kept is not None and kept.is_dir()


def test_nor_the_checkpoint_of_a_task(sweeper, tmp_path, monkeypatch):
    def taken(self):
        raise OSError("the lock was taken")

    monkeypatch.setattr(RunLocks, "require", taken)
    with pytest.raises(OSError, match="the lock was taken"):
        sweeper(tmp_path / "run", devices=1, **METHODS["smf"])
    assert not list(tmp_path.rglob("task_*"))


def test_a_write_that_fails_is_not_passed_over(steps, monkeypatch):
    def full(*_, **__):
        raise OSError("no space")

    monkeypatch.setattr(checkpoints, "save", full)
    steps.write(0, some(1), {TRIAL: 0.0})
    with pytest.raises(OSError, match="no space"), steps._writer:
        pass


def test_steps_below_none_are_refused():
    with pytest.raises(ValueError, match="--save_every=-1: expected at least 0"):
        SweepConfig.of(save_every=-1)
