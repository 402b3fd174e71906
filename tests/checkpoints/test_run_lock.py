"""Locks: one holder at a time, refusals that name it, and what a dead one leaves."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from smf_jax import interrupts
from smf_jax.checkpoints import run_lock
from smf_jax.checkpoints.files import write_text
from smf_jax.checkpoints.run_lock import Holder, RunLocks, locked


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(run_lock, "POLL", 0.005)
    monkeypatch.setattr(run_lock, "SILENT", 0.1)


def read(path: Path) -> Holder:
    return run_lock._read(path) or Holder()


def leave(path: Path, **changes) -> Holder:
    """Leaves a lock as this process would, but for some changes."""
    with locked(path.with_name("other"), "", ["a"]):
        left = dataclasses.replace(read(path.with_name("other")), **changes)
    write_text(path, json.dumps(dataclasses.asdict(left)))
    return left


def ended() -> int:
    return int(subprocess.check_output([sys.executable, "-Sc", "import os; print(os.getpid())"]))


def test_a_living_holder_is_named_with_the_remedy(tmp_path):
    path = tmp_path / "made" / "lock"
    with locked(path, "--out=a"):
        who = f"--out=a is being written by process {os.getpid()} on {platform.node()}, since 20"
        refused = pytest.raises(BlockingIOError, match=f"{who}.*; wait until .* another --out")
        with refused, locked(path, "--out=a"):
            pass
        assert read(path).pid == os.getpid()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["killed", "another by its number now", "silent", "half"])
def test_what_a_dead_holder_leaves_is_taken_over(tmp_path, capsys, what):
    path = tmp_path / "lock"
    if what == "killed":
        leave(path, pid=ended())
    elif what == "another by its number now":
        leave(path, started="1")
    elif what == "silent":
        leave(path, machine="another", beat=time.time() - 2 * run_lock.FRESH)
    else:
        path.write_text('{"host": ')
    with locked(path, "--out=a"):
        assert read(path).pid == os.getpid()
    assert not list(tmp_path.iterdir())
    assert ("if it stays silent" in capsys.readouterr().out) == (what in ("silent", "half"))


def test_another_machine_lives_as_long_as_it_is_heard(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    leave(path, machine="another")
    with pytest.raises(BlockingIOError), locked(path, "--out=a"):
        pass
    # Its clock is an hour late: what counts is that the beats go on, five times every minute.
    late = leave(path, machine="another", beat=time.time() - 3600)
    now, beats = [0.0], []

    def sleep(seconds):
        now[0] += seconds
        if now[0] > 60 * len(beats) and len(beats) < 5:
            beats.append(leave(path, **{**vars(late), "beat": late.beat + len(beats)}))

    clock = {"time": time.time, "strftime": time.strftime}
    clock |= {"sleep": sleep, "monotonic": lambda: now[0]}
    monkeypatch.setattr(run_lock, "time", SimpleNamespace(**clock))
    monkeypatch.setattr(run_lock, "POLL", 1.0)
    monkeypatch.setattr(run_lock, "SILENT", 120.0)
    with locked(path, "--out=a"):
        assert now[0] == pytest.approx(241 + 120, abs=2)


def test_who_is_on_another_machine_is_named_with_when_it_was_heard(tmp_path):
    leave(tmp_path / "lock", machine="another", host="node7", beat=time.time() - 7)
    told = r"process .* on node7, since 20.* and heard of ([7-9]|\d\d+) seconds ago; "
    told += r"wait until it ends \(if that machine is gone, try again in .* seconds\), stop it, "
    told += "or give another --out"
    with pytest.raises(BlockingIOError, match=told), locked(tmp_path / "lock", "--out=a"):
        pass


def test_who_was_cut_off_writes_no_more(tmp_path, monkeypatch):
    def cut_off(path):
        raise ConnectionError("the network is gone")

    with locked(tmp_path / "lock", "--out=a") as lock:
        assert lock is not None
        lock.require()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run_lock, "_read", cut_off)
            patch.setattr(run_lock, "SILENT", 120.0)
            lock.require()  # for a moment
            monkeypatch.setattr(lock, "_heard", time.monotonic() - 61)
            with pytest.raises(OSError, match="lock could not be reached .*go on with --resume"):
                lock.require()
        (tmp_path / "lock").unlink()
        with pytest.raises(OSError, match="was taken from this silent process: it was removed"):
            lock.require()


def test_rows_are_written_by_who_has_the_lock_alone(tmp_path):
    locks = RunLocks(tmp_path, "0/1")
    locks.require()  # who has none may write: nobody shares a directory with a test or an example
    with locks.starting(), locks.writing(["a"], ["a"]):
        locks.require()
        leave(tmp_path / ".lock-0-of-1", token="another", host="elsewhere")
        with pytest.raises(OSError, match="on elsewhere has it"):
            locks.require()
    locks.require()


def test_of_the_processes_of_one_program_the_first_has_the_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock.jax.distributed, "is_initialized", lambda: True)
    one, two = RunLocks(tmp_path, "0/1"), RunLocks(tmp_path, "0/1")
    monkeypatch.setattr(run_lock.jax, "process_index", lambda: 0)
    with one.starting(), one.writing(["a"], ["a"]):
        held = sorted(path.name for path in tmp_path.iterdir())
        assert held == [".lock", ".lock-0-of-1"]
        monkeypatch.setattr(run_lock.jax, "process_index", lambda: 1)
        two.settle(["a"])
        with two.starting(["a"]), two.writing(["a"], ["a"]):
            two.require()
            assert sorted(path.name for path in tmp_path.iterdir()) == held
        monkeypatch.setattr(run_lock.jax, "process_index", lambda: 0)
        with pytest.raises(BlockingIOError):
            two.refuse(["a"])


def test_one_of_many_takes_over_at_a_time(tmp_path):
    path, inside, most = tmp_path / "lock", [], []
    leave(path, pid=ended())

    def enter():
        with locked(path, "--out=a", wait=lambda: None):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 12
    assert not list(tmp_path.iterdir())


def test_signs_of_life_are_given_and_a_lost_lock_ends_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "BEAT", 0.01)
    monkeypatch.setattr(interrupts, "_pending", None)
    path = tmp_path / "lock"
    with locked(path, "--out=a"):
        first = read(path)
        while read(path) == first:
            time.sleep(0.005)
        interrupts.check()
        with pytest.raises(
            OSError, match="was taken from this silent process: process .* on elsewhere has it"
        ):
            for _ in range(12_000):
                leave(path, token="another", host="elsewhere")
                time.sleep(0.005)
                interrupts.check()
    assert read(path).token == "another"  # it is not ours to remove


def test_shares_have_their_trials_and_a_whole_run_has_all(tmp_path):
    one, two, whole = (RunLocks(tmp_path, share) for share in ("0/2", "1/2", "0/1"))
    with one.starting(), one.writing(["a", "c"], ["a", "c"]):
        two.refuse(["b"])
        with two.writing(["b"], ["b"]):
            for refused in (
                lambda: one.refuse(["c"]),
                lambda: whole.refuse(None),
                lambda: whole.settle(["a"]),  # rather than to wait for it to start
                lambda: whole.writing(["b", "d"], ["b", "d"]).__enter__(),
                lambda: whole.writing(["d"], None).__enter__(),
            ):
                with pytest.raises(BlockingIOError, match=f"--out={tmp_path} is being written by"):
                    refused()
    whole.settle(None)
    leave(tmp_path / ".lock-0-of-2", pid=ended())
    with whole.writing(["a"], ["a"]):
        assert [path.name for path in tmp_path.iterdir()] == [".lock-0-of-1"]
    assert not list(tmp_path.iterdir())


def test_who_starts_is_waited_for_and_it_is_said(tmp_path, monkeypatch):
    one, two = RunLocks(tmp_path, "0/2"), RunLocks(tmp_path, "1/2")
    order, told, waits = [], [], threading.Event()
    monkeypatch.setattr(run_lock, "say", lambda text: (told.append(text), waits.set()))

    def second():
        with two.starting():
            order.append("second")

    with one.starting():
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(60)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert told == [f"--out={tmp_path}: waiting for process {os.getpid()} on {platform.node()}"]


def test_by_whatever_link_a_lock_is_that_of_what_it_leads_to(tmp_path):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "current").symlink_to(tmp_path / "models" / "mine")
    lock = run_lock.lock_of(tmp_path / "models" / "mine")
    assert lock == tmp_path.resolve() / "models" / ".mine.lock"
    assert run_lock.lock_of(tmp_path / "current") == lock
    refused = pytest.raises(BlockingIOError, match="current is being written .*ends, or stop it$")
    other = locked(run_lock.lock_of(tmp_path / "current"), "current")
    with locked(lock, "mine"), refused, other:
        pass
