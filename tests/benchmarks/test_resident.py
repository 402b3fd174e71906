"""Peak memory of children, each with nothing else in it."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest

from benchmarks import resident
from benchmarks.resident import peak_of, peak_resident_bytes, tell_peak


def test_the_peak_remembers_what_was_given_back():
    before = peak_resident_bytes()
    held = np.ones(2**24)
    grown = peak_resident_bytes()
    assert grown >= before + held.nbytes // 2 or before > held.nbytes
    del held
    # The system counts in batches.
    assert peak_resident_bytes() >= 0.99 * grown


def test_a_system_that_does_not_tell_gives_none(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(resident, "_STATUS", tmp_path / "status")
    assert peak_resident_bytes() is None
    (tmp_path / "status").write_text("Name:\tx\nVmHWM:\t    12 kB\nThreads:\t1\n")
    assert peak_resident_bytes() == 12 * 1024
    tell_peak()
    assert json.loads(capsys.readouterr().out) == {"peak_bytes": 12 * 1024}


def child(monkeypatch, status: int, out: str, error: str = "") -> list[list[str]]:
    started = []

    def run(command, **_):
        started.append(command)
        return subprocess.CompletedProcess(command, status, out, error)

    monkeypatch.setattr(subprocess, "run", run)
    return started


def test_a_child_is_given_its_task_and_its_last_line_is_read(monkeypatch):
    started = child(monkeypatch, 0, 'noise\n{"peak_bytes": 77}\n')
    assert peak_of("experiments.x", {"way": "smf"}) == 77
    assert started[0][1:] == ["-m", "experiments.x", '{"way": "smf"}']


@pytest.mark.parametrize(
    ("status", "out", "error", "message"),
    [
        (1, "", "Traceback\nMemoryError: no room", "status 1: MemoryError: no room"),
        (9, "", "", "status 9: no message"),
        (0, '{"peak_bytes": null}', "", "does not tell"),
    ],
)
def test_a_child_that_failed_is_told_in_a_line(monkeypatch, status, out, error, message):
    child(monkeypatch, status, out, error)
    with pytest.raises(ValueError, match=message):
        peak_of("experiments.x", {})
