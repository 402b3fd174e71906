"""One kill of a sweep, and its resume; `tests.kills` does it twenty times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_a_sweep_that_was_killed_comes_to_the_same(tiny_base, tmp_path):
    command = [sys.executable, "-m", "tests.kills", "--kills=1", f"--base={tiny_base}"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_XDIST_WORKER"}
    told = subprocess.run(
        [*command, f"--out={tmp_path / 'runs'}"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert told.returncode == 0, told.stdout
    assert json.loads(told.stdout.splitlines()[-1])["kills"] == 1
