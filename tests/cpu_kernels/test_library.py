"""The library of kernels is built once, and said not to be where it cannot."""

from __future__ import annotations

import os
import stat

import jax
import pytest

from smf_jax.cpu_kernels import library
from smf_jax.cpu_kernels.library import is_available


class Compiler:
    """Stands in for a C++ compiler: writes down what it is asked, then does as its script says."""

    def __init__(self, folder, monkeypatch, script='for last; do :; done; echo > "$last"'):
        self.log, program = folder / "log", folder / "compile"
        program.write_text(f'#!/bin/sh\necho "$@" >> {self.log}\n{script}\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("CXX", f"{program} --flag")
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))

    @property
    def builds(self):
        return [line for line in self.log.read_text().splitlines() if "-o" in line.split()]


def test_it_is_built_once_for_a_compiler_and_a_jaxlib(tmp_path, monkeypatch):
    compiler = Compiler(tmp_path, monkeypatch)
    path = library._build()
    assert path.parent == tmp_path / "cache/smf_jax"
    assert library._build() == path
    (build,) = compiler.builds
    assert build.startswith("--flag -O3") and "best_slots.cc" in build and "sorted_runs.cc" in build
    monkeypatch.setattr(library.jaxlib.version, "__version__", "another")
    assert library._build() != path
    assert len(compiler.builds) == 2
    of_both = sorted(path.name for path in path.parent.iterdir())
    assert len(of_both) == 2 and all(name.endswith(".so") for name in of_both)


def test_another_processor_has_a_library_of_its_own(tmp_path, monkeypatch):
    write = 'for last; do :; done; echo > "$last"; echo '
    first = (Compiler(tmp_path, monkeypatch, write + "__AVX2__"), library._build())
    second = (Compiler(tmp_path, monkeypatch, write + "__AVX512F__"), library._build())
    assert first[1] != second[1]


@pytest.mark.parametrize(
    ("script", "said"), [("echo no such flag >&2; exit 1", "no such flag"), (None, "no C++")]
)
def test_what_keeps_it_from_being_built_is_said(tmp_path, monkeypatch, caplog, script, said):
    if script is None:
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        Compiler(tmp_path, monkeypatch, script)
    assert not library._is_loaded.__wrapped__()
    (record,) = caplog.records
    message = record.getMessage()
    assert all(words in message for words in (said, "lax.top_k", "CXX=", "XDG_CACHE_HOME="))


def test_a_cache_that_cannot_be_written_is_said(tmp_path, monkeypatch, caplog):
    Compiler(tmp_path, monkeypatch)
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert not library._is_loaded.__wrapped__()
    assert str(tmp_path / "cache") in caplog.text


def test_the_users_cache_is_the_default(tmp_path, monkeypatch):
    Compiler(tmp_path, monkeypatch)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert library._build().parent == tmp_path / ".cache/smf_jax"
    assert os.listdir(tmp_path / ".cache/smf_jax")


def test_a_machine_with_an_accelerator_builds_nothing(monkeypatch):
    monkeypatch.setattr(library, "_is_loaded", lambda: pytest.fail("built"))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not is_available()


@pytest.mark.usefixtures("kernels")
def test_every_target_is_registered():
    result = jax.ShapeDtypeStruct((1,), "float32")
    for target in library.TARGETS:
        # One that nobody registered would not be found.
        with pytest.raises(jax.errors.JaxRuntimeError, match="Wrong number of arguments"):
            jax.block_until_ready(jax.ffi.ffi_call(target, result)())
