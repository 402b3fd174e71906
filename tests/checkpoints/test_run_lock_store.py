"""Locks that are objects in a store, which creates, appends and renames nothing atomically."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest
from etils import epath

from smf_jax import interrupts
from smf_jax.checkpoints import run_lock
from smf_jax.checkpoints.run_lock import locked
from tests.checkpoints.test_run_lock import leave

PATH: Any = epath.Path("gs://bucket/run/.lock")


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(run_lock, "POLL", 0.005)
    monkeypatch.setattr(run_lock, "SETTLE", 0.05)
    monkeypatch.setattr(run_lock, "SILENT", 0.1)


def test_one_has_it_at_a_time_and_nothing_is_left(store):
    with locked(PATH, "--out=gs://bucket/run"):
        refused = pytest.raises(BlockingIOError, match="--out=gs://bucket/run is being written by")
        with refused, locked(PATH, "--out=gs://bucket/run"):
            pass
    assert not store.objects


def test_of_two_who_make_it_at_once_one_has_it(store, monkeypatch):
    """Everyone sees that there is none, then all write: the last one's stays."""
    monkeypatch.setattr(run_lock, "SETTLE", 0.5)  # a thread may be kept waiting for long
    write, inside, most = store.open, [], []
    noise = random.Random(0)

    def slow(path, mode):
        if "w" in mode:
            time.sleep(noise.random() * 0.02)  # after it was looked whether there is one
        return write(path, mode)

    monkeypatch.setattr(store, "open", slow)

    def enter():
        with locked(PATH, "--out=a", wait=lambda: None):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5
    assert not store.objects


def test_what_a_silent_machine_left_is_taken_over(store, capsys):
    leave(PATH, machine="another", beat=time.time() - 2 * run_lock.FRESH)
    with locked(PATH, "--out=a"):
        assert "if it stays silent" in capsys.readouterr().out
    assert not store.objects


def test_signs_of_life_outlive_a_network_that_is_away_for_a_moment(store, monkeypatch):
    monkeypatch.setattr(run_lock, "BEAT", 0.01)
    monkeypatch.setattr(run_lock, "SILENT", 120.0)
    monkeypatch.setattr(interrupts, "_pending", None)
    with locked(PATH, "--out=a"):
        store.fails_at = 0
        time.sleep(0.05)
        stood = run_lock._read(PATH)
        store.fails_at = None
        while run_lock._read(PATH) == stood:
            time.sleep(0.005)
        interrupts.check()
    assert not store.objects
