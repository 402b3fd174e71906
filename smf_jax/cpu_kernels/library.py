"""The library of kernels, built by the machine's C++ compiler when it is first needed.

That takes a few seconds, once for each compiler, processor and jaxlib: it is kept in the user's
cache.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

import jax
import jaxlib.version
from absl import logging

TARGETS = ("smf_jax_best_slots_f32", "smf_jax_best_slots_f64", "smf_jax_sorted_runs")

_SOURCES = sorted(Path(__file__).parent.glob("*.cc"))
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared")


def is_available() -> bool:
    """Whether CPUs compute here and have the kernels, which are built now if need be."""
    # A machine with an accelerator traces what is for CPUs too, and never runs it.
    return jax.default_backend() == "cpu" and _is_loaded()


@cache
def _is_loaded() -> bool:
    """Builds, loads and registers the library; says once why it cannot."""
    try:
        library = ctypes.CDLL(str(_build()))
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        logging.warning(
            "The kernels for CPUs could not be built; lax.top_k and jnp.sort take their place, as "
            "exact and several times slower: %s. Expected a C++17 compiler (c++, g++ or clang++ on "
            "the PATH, or CXX=...) and a cache folder to write (~/.cache, or XDG_CACHE_HOME=...).",
            said.strip(),
        )
        return False
    for target in TARGETS:
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(library[target]), platform="cpu")
    return True


def _build() -> Path:
    """The path of the library, which is compiled unless an earlier process did it."""
    compiler = _compiler()
    # What the compiler predefines names its version and what `native` is.
    asked = [*compiler, *_FLAGS, "-dM", "-E", "-x", "c++", os.devnull]
    native = subprocess.run(asked, capture_output=True, check=True).stdout
    of_build = [path.read_bytes() for path in _SOURCES]
    of_build += [native, jaxlib.version.__version__.encode(), repr(_FLAGS).encode()]
    name = hashlib.sha256(b"\0".join(of_build)).hexdigest()[:16]
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    library = Path(caches) / "smf_jax" / f"cpu_kernels-{name}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        # Other processes may build it at the same time, and none may load half of it.
        unfinished = library.with_suffix(f".{os.getpid()}")
        command = [*compiler, *_FLAGS, "-isystem", jax.ffi.include_dir()]
        command += [*map(str, _SOURCES), "-o", str(unfinished)]
        subprocess.run(command, capture_output=True, text=True, check=True)
        unfinished.replace(library)
    return library


def _compiler() -> list[str]:
    if named := os.environ.get("CXX"):
        return shlex.split(named)
    for name in ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            return [path]
    raise FileNotFoundError("no C++ compiler was found")
