"""Checking a taught model, and listing what it was taught."""

from __future__ import annotations

import shutil

import pytest

from smf_jax.bases.base import save_base
from smf_jax.taught.checking import check, found_text, list_text, listed
from smf_jax.taught.config import CheckConfig, ListConfig
from smf_jax.taught.directory import TaughtDirectory
from tests.tiny_sweep import on_devices


def do(path):
    with on_devices(1):
        return check(CheckConfig(arguments=(str(path),)))


def test_a_whole_model_differs_from_its_base_in_written_rows_alone(taught):
    found = do(taught)
    assert list(found.rows) == ["memory/pool_1/values"] and not found.others
    assert (found.patches, found.facts, found.answered, found.lost) == (2, 1, 1, [])
    assert found.after.text_loss is not None and found.before.text_loss is not None
    text = found_text(found)
    assert "rows of memory/pool_1/values" in text and "facts answered: 1 of 1" in text


def test_a_flipped_byte_is_found(taught, tmp_path):
    out = shutil.copytree(taught, tmp_path / "copy")
    file = sorted((out / "patches").glob("*.safetensors"))[0]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=file.name):
        do(out)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=file.name):
        do(out)


def test_lessons_patches_and_commands_are_listed(taught):
    text = list_text(*listed(ListConfig(arguments=(str(taught),))))
    assert "facts_01: 0 of 2 facts learned" in text and "facts_02" in text
    assert f"smf forget {taught} facts_02" in text and "python -m experiments.patch show" in text
    assert text.endswith(f"smf export {taught} --out=NEW")
    with pytest.raises(ValueError, match="0 arguments given, expected DIR: smf list DIR"):
        listed(ListConfig())


def test_no_export_is_named_that_would_be_refused(taught, tmp_path):
    out = shutil.copytree(taught, tmp_path / "model")
    directory = TaughtDirectory(str(out))
    save_base(out / "base", directory.load_base().quantised("int8"), overwrite=True)
    assert "smf export" not in list_text(directory, directory.read())
