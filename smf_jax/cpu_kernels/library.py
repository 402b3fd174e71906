"""The library of kernels, built by the machine's C++ compiler when it is first needed.

That takes a few seconds, once for each compiler, processor and jaxlib: it is kept in the user's
cache. ``SMF_JAX_CPU_KERNELS=0`` does without: several processes that compute one program want
either all or none of them to have the kernels, and `jax.export` knows no others' kernels.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jaxlib.version
from absl import logging
from jax import lax
from jaxtyping import Array

from smf_jax.paths import as_path

TARGETS = ("smf_jax_best_slots_f32", "smf_jax_best_slots_f64", "smf_jax_sorted_runs")
SWITCH = "SMF_JAX_CPU_KERNELS"

_SOURCES = sorted(Path(__file__).parent.glob("*.cc"))
# Zeros, infinities and NaN have an order: compilers that take such liberties unasked may not.
_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-fno-fast-math")
_NATIVE = "-march=native"
_LOADING = threading.Lock()
_REASONS = (OSError, RuntimeError, ValueError, AttributeError, subprocess.SubprocessError)


def is_available() -> bool:
    """Whether CPUs compute here and have the kernels, which are built now if need be.

    Raises:
      ValueError: if the environment's ``SMF_JAX_CPU_KERNELS`` is neither 0 nor 1.
    """
    wanted = os.environ.get(SWITCH, "1")
    if wanted not in ("0", "1"):
        raise ValueError(f"{SWITCH}={wanted!r} in the environment; expected 0 or 1")
    # A machine with an accelerator traces what is for CPUs too, and seldom runs it.
    if wanted == "0" or jax.default_backend() != "cpu":
        return False
    with _LOADING:
        return _is_loaded()


def call(
    target: str, results: Sequence[tuple[tuple[int, ...], Any]], x: Array, **given: Any
) -> Any:
    """What a kernel, one of `TARGETS`, makes of an array: results of these shapes and dtypes.

    What else is ``given`` are the kernel's attributes, NumPy scalars.
    """
    arrays = tuple(jax.ShapeDtypeStruct(*result) for result in results)
    found = jax.ffi.ffi_call(target, arrays, vmap_method="sequential")(x, **given)
    # Inside of shard_map the results differ between devices as the array does.
    axes = tuple(jax.typeof(x).manual_axis_type.varying)
    return tuple(lax.pcast(array, axes, to="varying") for array in found) if axes else tuple(found)


@cache
def _is_loaded() -> bool:
    """Builds, loads and registers the library; says once why it cannot."""
    try:
        library = _load()
        for target in TARGETS:
            jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(library[target]), platform="cpu")
    # The kernels are an option: a home, a compiler or a linker that is odd may not end what runs
    # as well without them.
    except _REASONS as error:
        said = getattr(error, "stderr", None) or str(error)
        logging.warning(
            "The kernels for CPUs could not be built or loaded; lax.top_k and jnp.sort take their "
            "place, as exact and several times slower: %s. Expected a C++17 compiler (c++, g++ or "
            "clang++ on the PATH, or CXX=...) and a cache folder to write (~/.cache, or "
            "XDG_CACHE_HOME=...); %s=0 does without.",
            said.strip(),
            SWITCH,
        )
        return False
    return True


def _load() -> ctypes.CDLL:
    path = _build()
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        # Cut short, or built beside other system libraries by a machine that shares the cache.
        path.unlink()
        return ctypes.CDLL(str(_build()))


def _build() -> Path:
    """The path of the library, which is compiled unless an earlier process did it."""
    found = [path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))]
    compiler = shlex.split(os.environ.get("CXX", "")) or found[:1]
    if not compiler:
        raise FileNotFoundError("no C++ compiler was found")
    try:
        return _build_for([*compiler, *_FLAGS, _NATIVE])
    except subprocess.CalledProcessError:  # some compilers do not know the flag
        return _build_for([*compiler, *_FLAGS])


def _build_for(compiler: list[str]) -> Path:
    # What the compiler predefines names its version and what `native` is.
    native = _run([*compiler, "-dM", "-E", "-x", "c++", os.devnull])
    of_build = [path.read_text() for path in _SOURCES]
    of_build += [native, jaxlib.version.__version__, repr(compiler)]
    name = hashlib.sha256("\0".join(of_build).encode()).hexdigest()[:16]
    caches = as_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "smf_jax"
    library = caches / f"cpu_kernels-{name}.so"
    if not library.exists():
        caches.mkdir(parents=True, exist_ok=True)
        # Other processes may build it at the same time, and none may load half of it.
        with tempfile.TemporaryDirectory(dir=caches) as folder:
            unfinished = Path(folder) / library.name
            sources = map(str, _SOURCES)
            _run([*compiler, "-isystem", jax.ffi.include_dir(), *sources, "-o", str(unfinished)])
            unfinished.replace(library)
    return library


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
    return done.stdout
