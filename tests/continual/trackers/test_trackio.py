"""A local database of Trackio, where the package is installed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("trackio")

FOLLOW = """
import json, pathlib
from smf_jax.continual.trackers.trackio import Trackio
trackers = {trial: Trackio() for trial in ("a", "b")}
for trial, tracker in trackers.items():
    tracker.start(pathlib.Path("runs/world"), trial, {"trial": trial, "seed": 0})
for trial, tracker in trackers.items():
    tracker.log_scalars(0, {"loss": 1.5})
    tracker.log_row(0, {"trial": trial, "seed": 0, "unseen": 0.75})
    tracker.finish()
from trackio.sqlite_storage import SQLiteStorage
found = {trial: SQLiteStorage.get_logs("world", trial) for trial in trackers}
print("\\n" + json.dumps(found))
"""


def test_runs_lie_in_a_local_database(tmp_path):
    """In a process of its own, which reads where the database lies as it starts."""
    environment = {"TRACKIO_DIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", FOLLOW]
    run = subprocess.run(
        command, env=environment, check=True, timeout=120, stdout=subprocess.PIPE, text=True
    )
    line = next(line for line in run.stdout.splitlines() if line.startswith('{"a"'))
    for logged in json.loads(line).values():
        assert [each["step"] for each in logged] == [0, 0]
        assert logged[0]["loss"] == 1.5 and logged[1]["task/unseen"] == 0.75
    assert (tmp_path / "world.db").is_file()
