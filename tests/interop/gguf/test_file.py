"""GGUF files that are none, end early or hold what is not read."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from smf_jax.interop.gguf.file import open_gguf
from tests.interop.gguf.files import write_gguf, write_model

VALUES = {"general.architecture": "llama", "a.text": "x", "a.numbers": [1, 2, 3], "a.switch": True}
TENSORS = {"a.weight": np.arange(12, dtype=np.float32).reshape(3, 4)}


def test_metadata_by_key_and_tensors_by_name(tmp_path):
    file = open_gguf(write_gguf(tmp_path / "a.gguf", VALUES, TENSORS))
    assert VALUES.items() <= file.values.items()
    assert file.section("a.").values == {"text": "x", "numbers": [1, 2, 3], "switch": True}
    assert file.tensors["a.weight"].shape == (3, 4)
    np.testing.assert_array_equal(file.tensors["a.weight"].read("float32"), TENSORS["a.weight"])


def test_what_is_read_is_no_window_on_the_file(tmp_path):
    path = write_gguf(tmp_path / "a.gguf", VALUES, TENSORS)
    found = open_gguf(path).tensors["a.weight"].read("float32")
    path.write_bytes(bytes(path.stat().st_size))
    np.testing.assert_array_equal(found, TENSORS["a.weight"])


def test_a_file_that_ends_early_is_refused_wherever_it_ends(tmp_path):
    """Also within an array of numbers, past which the package itself reads on and on."""
    whole = write_model(tmp_path / "whole.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    short = len(write_gguf(tmp_path / "a.gguf", VALUES, TENSORS).read_bytes())
    types = whole.index(b"tokenizer.ggml.token_type") + 100
    for length in (4, 7, 30, short, types, types + 4, types + 800, len(whole) - 40, len(whole) - 1):
        cut.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"cut.gguf \({length} bytes\) is truncated or damag"):
            open_gguf(cut)


def test_other_files_are_refused(tmp_path):
    for content in (b"", b"PK\3\4 something"):
        (tmp_path / "a.gguf").write_bytes(content)
        with pytest.raises(ValueError, match="a.gguf is no GGUF file: it begins with b'.*; give"):
            open_gguf(tmp_path / "a.gguf")
    parts = write_gguf(tmp_path / "b.gguf", VALUES | {"split.count": 3}, TENSORS)
    with pytest.raises(ValueError, match="b.gguf: split.count=3: expected one file: join the par"):
        open_gguf(parts)


def test_a_type_of_tensors_that_is_unknown(tmp_path):
    path = write_gguf(tmp_path / "a.gguf", VALUES, TENSORS)
    content = bytearray(path.read_bytes())
    at = content.index(b"a.weight") + len("a.weight") + 4 + 2 * 8
    assert content[at : at + 4] == bytes(4)  # float32
    content[at] = 199
    path.write_bytes(content)
    with pytest.raises(ValueError, match="199.? is not a valid GGML.*or update gguf"):
        open_gguf(path)


def test_the_package_is_asked_for_by_name(tmp_path, monkeypatch):
    from smf_jax.interop.gguf import file

    path = write_gguf(tmp_path / "a.gguf", VALUES, TENSORS)
    file._reader_class.cache_clear()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"needs the gguf package.* pip install 'smf_jax\[gguf\]"):
        open_gguf(path)
