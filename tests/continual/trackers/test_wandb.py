"""Offline runs of Weights & Biases, where the package is installed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("wandb")

FOLLOW = """
import pathlib, sys
from smf_jax.continual.trackers.wandb import Wandb
trackers = {trial: Wandb() for trial in ("a", "b")}
for trial, tracker in trackers.items():
    tracker.start(pathlib.Path(sys.argv[1]), trial, {"trial": trial, "seed": 0})
for trial, tracker in trackers.items():
    tracker.log_scalars(0, {"loss": 1.5})
    tracker.log_row(0, {"trial": trial, "seed": 0, "unseen": 0.75})
    tracker.finish()
"""


def test_offline_runs_side_by_side_lie_in_the_directory_of_the_sweep(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    environment["PYTHONPATH"] = ":".join(sys.path)
    command = [sys.executable, "-c", FOLLOW, str(tmp_path / "world")]
    subprocess.run(command, env=environment, check=True, timeout=120, cwd=tmp_path)
    runs = sorted((tmp_path / "world" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len({run.name for run in runs}) == 2
    for run in runs:
        assert b"task/unseen" in run.read_bytes() and b"loss" in run.read_bytes()
