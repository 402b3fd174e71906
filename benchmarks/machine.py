"""The machine: what it is, what memory it has, how fast it copies and multiplies."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.harness import Contestant, Stepper, compile_for, over_inputs, take_turns
from benchmarks.resident import peak_resident_bytes
from smf_jax.cpu_kernels.library import is_available

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "libtpu")


class Rates(NamedTuple):
    """What the machine reaches at best, measured in the run that quotes it.

    Attributes:
      copy_bytes: a second, read and written, of a copy between two arrays that exist.
      operations: a second, of a square matrix product (two per multiply and add).
      dtype: of the matrix product.
    """

    copy_bytes: float
    operations: float
    dtype: str


def describe_machine() -> dict[str, Any]:
    """The machine and the versions that run on it, as JSON values."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device_kind": device.device_kind,
        "devices": jax.device_count(),
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "cpu_kernels": is_available(),
        "memory_bytes": _meminfo().get("MemTotal"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def machine_line(machine: dict[str, Any]) -> str:
    """One line that says what a table was run on."""
    where = f"{machine['cores']} cores of {machine['cpu']}"
    if machine["platform"] != "cpu":
        where = f"{machine['devices']} {machine['device_kind']}, {where}"
    elif not machine["cpu_kernels"]:
        where += ", without the kernels for CPUs"
    return f"{where}, Python {machine['python']}, jax {machine['versions'].get('jax', '?')}"


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_bytes() -> int | None:
    """Bytes that arrays may still take where they live; ``None`` where nothing tells."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        if "bytes_limit" not in stats:
            return None
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return min(filter(None, (_meminfo().get("MemAvailable"), _group_free())), default=None)


def peak_bytes() -> int | None:
    """The most memory that was ever in use: the device's, or this process's on a CPU."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("peak_bytes_in_use")
    return peak_resident_bytes()


def measure_rates(
    repetitions: int = 10,
    copy_bytes: int | None = None,
    matrix_width: int | None = None,
    dtype: Any = jnp.float32,
) -> Rates:
    """Measures the copy bandwidth and the rate of matrix products.

    Args:
      repetitions: of each; the fastest counts, as a rate is what can be reached.
      copy_bytes: of the array that is copied; by default far more than a cache holds.
      matrix_width: of the square matrices.
      dtype: of the matrices.
    """
    on_cpu = jax.default_backend() == "cpu"
    copy_bytes = copy_bytes or (2**28 if on_cpu else 2**30)
    width = matrix_width or (2048 if on_cpu else 8192)
    source = jnp.ones(copy_bytes // 4, jnp.float32)
    matrix = jax.random.normal(jax.random.key(0), (width, width), dtype)
    copy = compile_copy(source)
    multiply = compile_for(partial(jnp.matmul), matrix, matrix)
    calls = 1 if on_cpu else 10
    timings = take_turns(
        [
            Contestant("copy", Stepper(copy, jnp.zeros_like(source), [(source,)])),
            Contestant("multiply", over_inputs(multiply.run, [(matrix, matrix)])),
        ],
        repetitions,
        calls=calls,
    )
    best = {name: min(timing.samples) for name, timing in timings.items()}
    return Rates(
        copy_bytes=2 * source.nbytes / best["copy"],
        operations=2 * width**3 / best["multiply"],
        dtype=jnp.dtype(dtype).name,
    )


def compile_copy(source: Any) -> Any:
    """``(target, source) -> copy of source`` in the buffer of the target.

    Into memory that exists: pages that the system has yet to give would be timed otherwise.
    """

    def copy(target: jax.Array, source: jax.Array) -> jax.Array:
        del target
        return source + 1  # a mere copy may be done by one thread only

    compiled = jax.jit(copy, donate_argnums=0, keep_unused=True)
    return compiled.lower(source, source).compile()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _meminfo() -> dict[str, int]:
    path = Path("/proc/meminfo")
    if not path.exists():
        return {}
    pairs = (line.partition(":")[::2] for line in path.read_text().splitlines())
    return {name: int(value.split()[0]) * 1024 for name, value in pairs if "kB" in value}


def _group_free() -> int | None:
    """What a container's limit leaves."""
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if not limit.exists() or not limit.read_text().strip().isdigit():
        return None
    return int(limit.read_text()) - int(used.read_text())
