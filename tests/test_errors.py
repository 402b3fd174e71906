"""Errors that name the flag to blame."""

from __future__ import annotations

import pytest

from smf_jax.errors import blame_flag, require_writable


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


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    require_writable(str(tmp_path / "a" / "b"), "out")
    require_writable("a/b", "out")
    with pytest.raises(ValueError, match="--out=.*file/a: .*file is no directory"):
        require_writable(str(tmp_path / "file" / "a"), "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
