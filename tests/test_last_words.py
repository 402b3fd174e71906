"""Processes that end in every way: a line is told of those that could tell none."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from smf_jax import last_words

# Of a module without JAX, loaded by its file, so that the processes start at once.
PROGRAM = """
import os, runpy, signal, sys
last_words = runpy.run_path(sys.argv[1])["last_words"]
with last_words("it is gone", sys.argv[2]):
    {}
print("after", file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("does", "status", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, "\nit is gone\n"),
        ("os.abort()", -signal.SIGABRT, "\nit is gone\n"),
        ("os._exit(3)", 3, "\nit is gone\n"),
        ("sys.exit('an error')", 1, "an error\n"),
        ("pass", 0, "after\n"),
    ],
)
def test_only_what_tells_nothing_itself_is_spoken_for(does, status, told, tmp_path):
    (scratch := tmp_path / "scratch").mkdir()
    command = [sys.executable, "-S", "-c", PROGRAM.format(does), last_words.__file__, str(scratch)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (status, told)
    assert scratch.exists() == ("gone" not in told)  # else whoever made it removes it
