"""The lookup's kernel for a CPU, built by the machine's C++ compiler when it is first needed.

XLA's only top-k on a CPU sorts every row whole, on one core. `cpu_kernel.cc` ranks on all cores. It
compiles in three seconds, once for each compiler, processor and jaxlib, into the user's cache.
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
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

_SOURCE = Path(__file__).with_suffix(".cc")
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared")
_TARGETS = {"float32": "smf_jax_best_slots_f32", "float64": "smf_jax_best_slots_f64"}


def best_slots(
    half_scores: Float[Array, "h 2 t n"], k: int
) -> tuple[Float[Array, "t h k"], Int[Array, "t h k"]]:
    """The ``k`` best sums of a score of each half, and their slots, where `is_available`.

    Args:
      half_scores: ``(h, 2, t, n)`` float32 or float64.
      k: reads per head, ``1 ≤ k ≤ n``.

    Returns:
      Scores ``(t, h, k)``, descending, and slots ``(t, h, k)`` int32; ties in the order of
      `lax.top_k`.
    """
    heads, _, tokens, _ = half_scores.shape
    found = (tokens, heads, k)
    call = jax.ffi.ffi_call(
        _TARGETS[half_scores.dtype.name],
        (
            jax.ShapeDtypeStruct(found, half_scores.dtype),
            jax.ShapeDtypeStruct(found, jnp.int32),
        ),
        vmap_method="sequential",
    )
    scores, slots = call(half_scores)
    return scores, slots


@cache
def is_available() -> bool:
    """Whether the kernel can be called; it is built now if need be. Says once why not."""
    try:
        library = ctypes.CDLL(str(_build()))
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        logging.warning(
            "The lookup's kernel for CPUs could not be built; lax.top_k takes its place, as exact "
            "and several times slower: %s. Expected a C++17 compiler (c++, g++ or clang++ on the "
            "PATH, or CXX=...) and a cache folder to write (~/.cache, or XDG_CACHE_HOME=...).",
            said.strip(),
        )
        return False
    for target in _TARGETS.values():
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(library[target]), platform="cpu")
    return True


def _build() -> Path:
    """The path of the library, which is compiled unless an earlier process did it."""
    compiler = _compiler()
    # What the compiler predefines names its version and what `native` is.
    asked = [*compiler, *_FLAGS, "-dM", "-E", "-x", "c++", os.devnull]
    native = subprocess.run(asked, capture_output=True, check=True).stdout
    of_build = [
        _SOURCE.read_bytes(),
        native,
        jaxlib.version.__version__.encode(),
        repr(_FLAGS).encode(),
    ]
    name = hashlib.sha256(b"\0".join(of_build)).hexdigest()[:16]
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    library = Path(caches) / "smf_jax" / f"cpu_kernel-{name}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        # Other processes may build it at the same time, and none may load half of it.
        unfinished = library.with_suffix(f".{os.getpid()}")
        command = [*compiler, *_FLAGS, "-isystem", jax.ffi.include_dir()]
        command += [str(_SOURCE), "-o", str(unfinished)]
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
