"""Shares of a grid as jobs: by submitit's own executors, in this process and in others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import sweep
from smf_jax.continual import launch as launch_module
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.launch import LaunchConfig, Share, launch

RECORD = "tests.continual.tiny_job:record"


def test_every_share_is_a_job_of_its_own_and_the_worst_counts(tmp_path, capsys, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(launch_module, "say", said.append)
    told = LaunchConfig(launcher="submitit", jobs=2, job_options="cluster=local,timeout_min=9")
    values = {"out": str(tmp_path), "launcher": "submitit", "jobs": 2, "resume": False}
    with capsys.disabled():  # its logger keeps whatever is the standard error when it is imported
        assert launch(told, values, str(tmp_path / "run"), RECORD) == 1
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    assert [each["shard"] for each in found] == ["0/2", "1/2"]
    assert all(each["launcher"] == "none" and each["jobs"] == 1 for each in found)
    first, failed = said
    assert first.startswith("2 jobs of local, first ") and first.endswith(f"in {tmp_path}/run.jobs")
    log = Path(failed.partition("its log is ")[2])
    assert failed.startswith("share 1/2 failed: ValueError: --base=bad: no such file; its log is ")
    assert log.parent == tmp_path / "run.jobs"


def test_a_preempted_job_is_queued_again_to_resume():
    again = Share(RECORD, {"resume": False, "shard": "0/2"}).checkpoint()
    assert again.function == Share(RECORD, {"resume": True, "shard": "0/2"})


def test_a_sweep_is_checked_before_it_is_submitted(old_run, monkeypatch):
    submitted = []
    monkeypatch.setattr(sweep, "launch", lambda *told: submitted.append(told) or 0)
    given = dict(launcher="submitit", jobs=2)
    with pytest.raises(FileExistsError, match="exists; give --resume"):
        sweep.main(SweepConfig.of(out=str(old_run), **given))
    config = SweepConfig.of(out=f"{old_run}-new", **given)
    assert sweep.main(config) == 0
    assert submitted == [
        (config.launch, config.values(), f"{old_run}-new", "experiments.sweep:run_share")
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(jobs=2), "--jobs=2: expected with --launcher=submitit"),
        (dict(launcher="submitit", shard="0/2"), "--shard=0/2: --launcher deals shares"),
        (dict(launcher="submitit", overwrite=True), "--overwrite=True: jobs replace no run"),
        (dict(launcher="submitit", job_options="gpu"), "--job_options=gpu: 'gpu' is no name=value"),
        (dict(launcher="submitit", job_options="a=1,a=2"), "is no name=value, or there twice"),
        (dict(launcher="submitit", jobs=0), "--jobs=0: expected at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        SweepConfig.of(**given)


def test_what_submitit_does_not_know_is_refused(tmp_path, capsys):
    for options in ("gpus=1", "cluster=moon", "cluster=local,nodes=2"):
        told = LaunchConfig(launcher="submitit", job_options=options)
        refused = pytest.raises(ValueError, match=f"--job_options={options}: ")
        with capsys.disabled(), refused:
            launch(told, {}, str(tmp_path / "run"), RECORD)
