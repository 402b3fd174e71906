"""Shares of a grid as jobs: by submitit's own executors, in this process and in others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import sweep
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.launch import Share

ROOT = Path(__file__).resolve().parents[2]
RECORD = "tests.continual.tiny_job:record"


def test_every_share_is_a_job_of_its_own_and_the_worst_counts(tmp_path):
    """In a process of its own: submitit and pytest do not share the standard streams well."""
    code = f"""
from smf_jax.continual.launch import LaunchConfig, launch
values = dict(out={str(tmp_path)!r}, launcher="submitit", jobs=2, resume=False)
for options in ("gpus=1", "cluster=moon", "cluster=local,nodes=2"):
    try:
        launch(LaunchConfig("submitit", 1, options), values, values["out"], "")
    except ValueError as error:
        print(str(error).startswith("--job_options=" + options))
told = LaunchConfig("submitit", 2, "cluster=local,timeout_min=9")
print(launch(told, values, values["out"] + "/run", "tests.continual.tiny_job:record"))
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    *refused, first, failed, status = ran.stdout.splitlines()
    assert refused == ["True"] * 3 and status == "1"
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    assert [each["shard"] for each in found] == ["0/2", "1/2"]
    assert all(each["launcher"] == "none" and each["jobs"] == 1 for each in found)
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
