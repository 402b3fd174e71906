"""Errors that name the flag to blame."""

from __future__ import annotations

import pytest

from smf_jax.errors import blame_flag, require_memory, require_writable


def test_an_error_is_told_with_its_flag_once():
    with pytest.raises(ValueError, match=r"^--reads=9 exceeds 4$"), blame_flag("--"):
        raise ValueError("reads=9 exceeds 4")
    with (
        pytest.raises(FileNotFoundError, match=r"^--base=a: a: not there$"),
        blame_flag("--base=a: "),
    ):
        raise FileNotFoundError("a: not there")
    with (
        pytest.raises(ValueError, match=r"^--stream: line 2$"),
        blame_flag("--probes: "),
        blame_flag("--stream: "),
    ):
        raise ValueError("line 2")


def test_a_store_that_cannot_be_written_is_refused(store):
    require_writable("gs://bucket/a", "out")
    assert not store.objects
    with pytest.raises(ValueError, match="^--out=gs://bucket: it names a bucket and nothing in it"):
        require_writable("gs://bucket", "out")
    store.fails_at = 0
    with pytest.raises(ValueError, match="^--out=gs://bucket/a: gs://bucket may not be written"):
        require_writable("gs://bucket/a", "out")


def test_more_than_memory_is_refused():
    require_memory(1e6, "--width=3")
    with pytest.raises(ValueError, match=r"^--width=3 takes 931,323 GiB, and this machine has \d"):
        require_memory(1e15, "--width=3")


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    require_writable(str(tmp_path / "a" / "b"), "out")
    require_writable("a/b", "out")
    require_writable(tmp_path, "out", inside=True)
    with pytest.raises(ValueError, match="--out=.*file: .*file is no directory"):
        require_writable(tmp_path / "file", "out", inside=True)
    with pytest.raises(ValueError, match="--out=/proc/a/b: /proc is no directory that may"):
        require_writable("/proc/a/b", "out")
    with pytest.raises(ValueError, match="--out=.*file/a: .*file is no directory"):
        require_writable(str(tmp_path / "file" / "a"), "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
