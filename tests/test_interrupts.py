"""Signals: a process stops at its next step, or soon, or at once, and says how to go on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# The module alone: importing the package takes seconds.
START = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("interrupts", sys.argv[1])
interrupts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(interrupts)
interrupts.GRACE = float(sys.argv[2])
interrupts.listen("go on with --resume")
print("ready", flush=True)
"""
STEPS = """
try:
    while True:
        time.sleep(0.01)
        interrupts.check()
except interrupts.Stopped as stopped:
    print("put away", flush=True)
    interrupts.leave(stopped)
"""
SWALLOWS = """
while True:
    time.sleep(0.01)
    try:
        interrupts.check()
    except BaseException:
        pass
"""
MODULE = Path(__file__).resolve().parents[1] / "smf_jax" / "interrupts.py"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("body", "grace", "times", "out"),
    [
        (STEPS, 60.0, 1, "put away\n"),
        (SWALLOWS, 0.2, 1, ""),
        ("time.sleep(600)", 0.2, 1, ""),
        (SWALLOWS, 60.0, 2, ""),
    ],
    ids=["step", "swallowed", "no step", "twice"],
)
def test_a_signal_ends_a_process_with_one_line(number, body, grace, times, out):
    command = [sys.executable, "-c", START + body, str(MODULE), str(grace)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        while times > 1 and process.poll() is None:  # two that come at once are one
            time.sleep(0.1)
            process.send_signal(number)
        told = process.communicate(timeout=120)
    line = f"stopped by {number.name}: go on with --resume"
    assert (process.returncode, told[0], told[1].strip()) == (128 + number, out, line)
