"""The kernel for CPUs finds what `lax.top_k` finds, ties and all, and is built once."""

from __future__ import annotations

import os
import stat
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from smf_jax.memory import cpu_kernel
from smf_jax.memory.cpu_kernel import best_slots, is_available

# Heads, tokens, keys a half, reads: more keys than groups and fewer, one block and several.
SHAPES = [
    (1, 1, 1, 1),
    (2, 3, 5, 5),
    (3, 40, 33, 2),
    (2, 17, 64, 32),
    (1, 5, 130, 32),
    (1, 3, 400, 7),
]


@pytest.fixture
def kernel():
    if not is_available():
        pytest.skip("no C++ compiler")


def expected(half_scores, k):
    """As the paper writes it (1907.05242, section 3.1): all k × k pairs, by `lax.top_k`."""
    n = half_scores.shape[-1]
    halves = jnp.where(half_scores == 0, 0, half_scores).transpose(1, 2, 0, 3)
    (first, i), (second, j) = lax.top_k(halves[0], k), lax.top_k(halves[1], k)
    sums = (first[..., :, None] + second[..., None, :]).reshape(*first.shape[:2], k * k)
    best, winners = lax.top_k(sums, k)
    i, j = (jnp.take_along_axis(a, b, -1) for a, b in ((i, winners // k), (j, winners % k)))
    return best, i * n + j


def require_best(half_scores, k):
    found = jax.jit(partial(best_slots, k=k))(half_scores)
    for array, truth in zip(found, jax.jit(partial(expected, k=k))(half_scores), strict=True):
        assert array.dtype == truth.dtype
        np.testing.assert_array_equal(array, truth)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("h", "t", "n", "k"), SHAPES)
def test_the_best_are_those_of_top_k(h, t, n, k, dtype):
    rng = np.random.default_rng(n)
    with jax.enable_x64(dtype == np.float64):
        for largest in (0, 2, 10**6):
            require_best(rng.integers(-largest, largest + 1, (h, 2, t, n)).astype(dtype), k)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_infinities_zeros_and_nan_stand_where_top_k_puts_them(dtype):
    tiny = np.finfo(dtype).tiny
    special = np.asarray([np.inf, -np.inf, 0, -0.0, np.nan, -np.nan, 1, tiny], dtype)
    scores = np.random.default_rng(0).standard_normal((2, 2, 30, 50)).astype(dtype)
    scores[:, 0] = np.random.default_rng(1).choice(special, (2, 30, 50))
    with jax.enable_x64(dtype == np.float64):
        require_best(scores, 9)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("large", [slice(None, None, 32), slice(0, 300), slice(700, None)])
def test_large_scores_may_stand_anywhere(large):
    """All in one group, so that the bound is low, or side by side."""
    scores = np.random.default_rng(0).standard_normal((1, 2, 4, 1000)).astype(np.float32)
    scores[..., large] += 100
    require_best(scores, 16)
    require_best(np.sort(scores), 16)


@pytest.mark.usefixtures("kernel")
def test_vmap_takes_one_after_another():
    scores = np.random.default_rng(0).standard_normal((3, 2, 2, 5, 20)).astype(np.float32)
    of_all = jax.vmap(partial(best_slots, k=4))(scores)
    for one, scores_of_one in enumerate(scores):
        for array, truth in zip(of_all, best_slots(scores_of_one, 4), strict=True):
            np.testing.assert_array_equal(array[one], truth)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(("halves", "k"), [(2, 6), (3, 2)])
def test_other_shapes_are_refused(halves, k):
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"expected scores \(h, 2, t, n\)"):
        jax.block_until_ready(best_slots(jnp.zeros((1, halves, 3, 5)), k))


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
    library = cpu_kernel._build()
    assert library.parent == tmp_path / "cache/smf_jax"
    assert cpu_kernel._build() == library
    (build,) = compiler.builds
    assert build.startswith("--flag -O3") and "cpu_kernel.cc" in build
    monkeypatch.setattr(cpu_kernel.jaxlib.version, "__version__", "another")
    assert cpu_kernel._build() != library
    assert len(compiler.builds) == 2
    of_both = sorted(path.name for path in library.parent.iterdir())
    assert len(of_both) == 2 and all(name.endswith(".so") for name in of_both)


def test_another_processor_has_a_library_of_its_own(tmp_path, monkeypatch):
    write = 'for last; do :; done; echo > "$last"; echo '
    first = (Compiler(tmp_path, monkeypatch, write + "__AVX2__"), cpu_kernel._build())
    second = (Compiler(tmp_path, monkeypatch, write + "__AVX512F__"), cpu_kernel._build())
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
    assert not is_available.__wrapped__()
    (record,) = caplog.records
    message = record.getMessage()
    assert all(words in message for words in (said, "lax.top_k", "CXX=", "XDG_CACHE_HOME="))


def test_a_cache_that_cannot_be_written_is_said(tmp_path, monkeypatch, caplog):
    Compiler(tmp_path, monkeypatch)
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert not is_available.__wrapped__()
    assert str(tmp_path / "cache") in caplog.text


def test_the_users_cache_is_the_default(tmp_path, monkeypatch):
    Compiler(tmp_path, monkeypatch)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cpu_kernel._build().parent == tmp_path / ".cache/smf_jax"
    assert os.listdir(tmp_path / ".cache/smf_jax")
