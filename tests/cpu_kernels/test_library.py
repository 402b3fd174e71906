"""The library of kernels is built once, and said not to be where it cannot."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import numpy as np
import pytest

from smf_jax.cpu_kernels import library
from smf_jax.cpu_kernels.best_slots import best_slots
from smf_jax.cpu_kernels.library import is_available
from smf_jax.cpu_kernels.sorted_runs import sorted_runs


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
    others = {library._build()}
    monkeypatch.setenv("CXX", f"{tmp_path / 'compile'} --another-flag")
    others.add(library._build())
    assert len(others - {path}) == 2 and len(compiler.builds) == 3
    # Nothing unfinished is left.
    assert sorted(path.parent.iterdir()) == sorted([path, *others])


def test_another_processor_has_a_library_of_its_own(tmp_path, monkeypatch):
    write = 'for last; do :; done; echo > "$last"; echo '
    Compiler(tmp_path, monkeypatch, write + "__AVX2__")
    first = library._build()
    Compiler(tmp_path, monkeypatch, write + "__AVX512F__")
    assert library._build() != first


def test_those_who_build_at_once_never_see_half_of_it(tmp_path, monkeypatch):
    Compiler(
        tmp_path,
        monkeypatch,
        'for last; do :; done; [ "$last" = /dev/null ] && exit; printf half > "$last"; sleep 0.1; '
        'printf whole > "$last"',
    )
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda _: library._build().read_text(), range(4)))
    assert read == ["whole"] * 4


def test_a_compiler_that_does_not_know_native_builds_without(tmp_path, monkeypatch):
    refuse = 'case "$*" in *-march=native*) exit 1;; esac; for last; do :; done; echo > "$last"'
    compiler = Compiler(tmp_path, monkeypatch, refuse)
    assert library._build().exists()
    (build,) = compiler.builds
    assert "-march" not in build


@pytest.mark.usefixtures("kernels")
def test_a_library_that_was_cut_short_is_built_again(tmp_path, monkeypatch):
    real = library._build()
    Compiler(tmp_path, monkeypatch, f'for last; do :; done; cp {real} "$last" 2>&1 || true')
    path = library._build()
    path.write_bytes(b"")
    assert library._load()[library.TARGETS[0]]
    assert path.read_bytes() == real.read_bytes()


@pytest.mark.parametrize(
    ("named", "said"),
    [("fails", "no such flag"), ("empty", "too short"), (None, "no C++"), ("g++'", "No closing")],
)
def test_what_keeps_it_from_being_there_is_said(tmp_path, monkeypatch, caplog, named, said):
    if named == "fails":
        Compiler(tmp_path, monkeypatch, "echo no such flag >&2; exit 1")
    elif named == "empty":
        Compiler(tmp_path, monkeypatch, 'for last; do :; done; : > "$last"')
    elif named is None:
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        monkeypatch.setenv("CXX", named)
    assert not library._is_loaded.__wrapped__()
    (record,) = caplog.records
    message = record.getMessage()
    assert all(words in message for words in (said, "lax.top_k", "CXX=", "XDG_CACHE_HOME="))
    assert "b'" not in message


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


@pytest.mark.parametrize(("backend", "switch"), [("gpu", "1"), ("cpu", "0")])
def test_nothing_is_built_for_an_accelerator_or_on_request(monkeypatch, backend, switch):
    monkeypatch.setattr(library, "_is_loaded", lambda: pytest.fail("built"))
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setenv("SMF_JAX_CPU_KERNELS", switch)
    assert not is_available()


def test_another_switch_is_refused(monkeypatch):
    monkeypatch.setenv("SMF_JAX_CPU_KERNELS", "off")
    with pytest.raises(ValueError, match="SMF_JAX_CPU_KERNELS='off' .* expected 0 or 1"):
        is_available()


@pytest.mark.usefixtures("kernels")
def test_every_target_is_registered():
    result = jax.ShapeDtypeStruct((1,), "float32")
    for target in library.TARGETS:
        # One that nobody registered would not be found.
        with pytest.raises(jax.errors.JaxRuntimeError, match="Wrong number of arguments"):
            jax.block_until_ready(jax.ffi.ffi_call(target, result)())


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("kernel", "shape", "dtype"),
    [
        (partial(best_slots, k=4), (3, 2, 2, 5, 20), np.float32),
        (partial(sorted_runs, table_slots=8), (3, 20), np.int32),
    ],
    ids=["best_slots", "sorted_runs"],
)
def test_vmap_takes_one_after_another(kernel, shape, dtype):
    given = np.random.default_rng(0).integers(0, 9, shape).astype(dtype)
    of_all = jax.vmap(kernel)(given)
    for one, of_one in enumerate(given):
        for array, truth in zip(of_all, kernel(of_one), strict=True):
            np.testing.assert_array_equal(array[one], truth)
