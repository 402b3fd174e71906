"""What is written appears whole or not at all."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smf_jax import paths
from smf_jax.checkpoints import files
from smf_jax.checkpoints.files import whole_directory, whole_file, write_text

# A process that is killed in the middle of a directory.
KILLED = """
import os, signal, sys
from pathlib import Path
from smf_jax.checkpoints.files import whole_directory

with whole_directory(sys.argv[1], overwrite=True) as partial:
    (partial / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def kill_a_writer_of(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode < 0


def leftover(path: Path, process: object, ending: str = ".partial") -> Path:
    return path.with_name(f".{path.name}.{platform.node()}.{process}{ending}")


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    return int(subprocess.check_output([sys.executable, "-c", "import os; print(os.getpid())"]))


def test_a_text_is_written_and_replaced(tmp_path):
    file = tmp_path / "new" / "a.json"
    for text in ("été\n", "2\n"):
        write_text(file, text)
        assert file.read_text(encoding="utf-8") == text
    assert names(file.parent) == ["a.json"]


def test_a_text_that_cannot_be_written_leaves_the_older_one(tmp_path):
    file = tmp_path / "a.json"
    write_text(file, "1")
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "1\ud800")
    with pytest.raises(RuntimeError), whole_file(file) as partial:
        partial.write_bytes(b"2")
        assert file.read_text() == "1"
        raise RuntimeError
    assert names(tmp_path) == ["a.json"] and file.read_text() == "1"


def test_a_directory_appears_when_it_is_whole(tmp_path):
    target = tmp_path / "a" / "b"
    with whole_directory(target) as partial:
        (partial / "x").write_text("1")
        assert not target.exists() and partial.parent == target.parent
    assert names(target) == ["x"] and names(target.parent) == ["b"]


def test_nothing_is_left_of_a_directory_that_fails(tmp_path):
    with pytest.raises(RuntimeError, match="full"), whole_directory(tmp_path / "a") as partial:
        (partial / "x").write_text("1")
        raise RuntimeError("full")
    assert names(tmp_path) == []


def test_an_older_directory_stays_until_its_successor_is_whole(tmp_path):
    target = tmp_path / "a"
    with whole_directory(target) as partial:
        (partial / "old").write_text("1")
    with pytest.raises(FileExistsError, match="a exists; choose another"), whole_directory(target):
        pytest.fail("the block must not run")
    with pytest.raises(RuntimeError), whole_directory(target, overwrite=True):
        raise RuntimeError
    assert names(target) == ["old"]
    with whole_directory(target, overwrite=True) as partial:
        (partial / "new").write_text("1")
        assert names(target) == ["old"]
    assert names(target) == ["new"] and names(tmp_path) == ["a"]


def test_of_two_that_write_one_directory_the_first_wins(tmp_path):
    target = tmp_path / "a"
    with pytest.raises(FileExistsError, match="a exists"), whole_directory(target) as partial:
        (partial / "second").write_text("1")
        target.mkdir()
        (target / "first").write_text("1")
    assert names(target) == ["first"] and names(tmp_path) == ["a"]


def test_of_killed_writers_the_last_leaves_something_and_a_retry_nothing(tmp_path):
    target = tmp_path / "a"
    for _ in range(2):
        kill_a_writer_of(target)
    assert len(names(tmp_path)) == 1
    with whole_directory(target) as partial:
        (partial / "x").write_text("1")
    assert names(tmp_path) == ["a"] and names(target) == ["x"]


def test_what_others_are_writing_is_left_alone(tmp_path):
    target = tmp_path / "a"
    theirs = [leftover(target, os.getppid()), leftover(target, "elsewhere.1")]
    theirs.append(target.with_name(f".a.another-machine.{os.getpid()}.partial"))
    for each in theirs:
        each.mkdir()
    with whole_directory(target):
        pass
    assert all(each.is_dir() for each in theirs)


def test_what_nobody_can_be_writing_any_more_goes(tmp_path):
    target, yesterday = tmp_path / "a", time.time() - 90_000
    theirs = target.with_name(".a.another-machine.1.partial")
    reused = leftover(target, os.getppid())
    other = target.with_name(".a.b.another-machine.1.replaced.partial")  # of a.b
    for each in (theirs, reused, other):
        each.mkdir()
        os.utime(each, (yesterday, yesterday))
    with whole_directory(target):
        pass
    assert names(tmp_path) == [other.name, "a"]


def test_nothing_is_left_though_threads_of_a_failed_writer_still_write(tmp_path, monkeypatch):
    failures = [OSError("not empty")] * 3

    def remove(path):
        if failures and path.exists():
            raise failures.pop()
        paths.remove(path)

    monkeypatch.setattr(files, "remove", remove)
    monkeypatch.setattr(files, "_SETTLE_SECONDS", 0)
    with pytest.raises(RuntimeError, match="full"), whole_directory(tmp_path / "a") as partial:
        (partial / "x").write_text("1")
        raise RuntimeError("full")
    assert names(tmp_path) == [] and not failures


def test_a_kill_while_the_successor_takes_its_place_loses_nothing(tmp_path, dead):
    target = tmp_path / "a"
    aside = leftover(target, dead, ".replaced.partial")
    aside.mkdir()
    (aside / "old").write_text("1")
    with pytest.raises(FileExistsError, match="a exists"), whole_directory(target):
        pytest.fail("the block must not run")
    assert names(target) == ["old"] and names(tmp_path) == ["a"]
