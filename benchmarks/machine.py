"""The machine: what it is, what memory it has, how fast it copies and multiplies."""

from __future__ import annotations

import os
import platform
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.harness import Case, Holder, compile_for, over_inputs, take_turns
from benchmarks.resident import peak_resident_bytes
from smf_jax.cpu_kernels.library import is_available

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "libtpu")


class Rates(NamedTuple):
    """What the machine reaches at best in a second, measured in the run that quotes it.

    Bytes read and written by a copy, operations (two per multiply and add) of a square product.
    """

    copy_bytes: float
    operations: float
    dtype: str

    def __str__(self) -> str:
        return (
            f"copies at {self.copy_bytes / 1e9:.3g} GB/s (read and written), multiplies "
            f"{self.dtype} matrices at {self.operations / 1e9:,.0f} GFLOP/s"
        )


def describe_machine() -> dict[str, Any]:
    """The machine and the versions that run on it, as JSON values."""
    device = jax.devices()[0]
    versions = {found.metadata["Name"]: found.version for found in distributions()}
    return {
        "platform": device.platform,
        "device_kind": device.device_kind,
        "devices": jax.device_count(),
        "cpu": _proc("cpuinfo").get("model name") or platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "cpu_kernels": is_available(),
        "memory_bytes": _in_bytes("MemTotal"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: versions[name] for name in _PACKAGES if name in versions},
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
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def free_bytes() -> int | None:
    """Bytes that arrays may still take where they live; ``None`` where nothing tells."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return min(filter(None, (_in_bytes("MemAvailable"), _group_free())), default=None)
    stats = device.memory_stats() or {}
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0) if "bytes_limit" in stats else None


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
    """Measures copies, by default of far more than a cache holds, and products of square matrices.

    The fastest of the repetitions counts, as a rate is what can be reached.
    """
    on_cpu = jax.default_backend() == "cpu"
    width = matrix_width or (2048 if on_cpu else 8192)
    source = jnp.ones((copy_bytes or (2**28 if on_cpu else 2**30)) // 4, jnp.float32)
    matrix = jax.random.normal(jax.random.key(0), (width, width), dtype)
    copying = Holder(jnp.zeros_like(source)).stepping(compile_copy(source), [(source,)])
    multiply = compile_for(lambda a, b: jnp.matmul(a, b), matrix, matrix)
    cases = [Case("copy", copying), Case("multiply", over_inputs(multiply.run, [(matrix, matrix)]))]
    timings = take_turns(cases, repetitions, calls=1 if on_cpu else 10)
    copied, multiplied = (min(timings[case.name].samples) for case in cases)
    name = jnp.dtype(dtype).name
    return Rates(2 * source.nbytes / copied, 2 * width**3 / multiplied, name)


def compile_copy(source: Any) -> Any:
    """``(target, source) -> copy of source`` in the buffer of the target.

    Into memory that exists: pages that the system has yet to give would be timed otherwise.
    """

    def copy(target: jax.Array, source: jax.Array) -> jax.Array:
        del target
        return source + 1  # a mere copy may be done by one thread only

    compiled = jax.jit(copy, donate_argnums=0, keep_unused=True)
    return compiled.lower(source, source).compile()


def _proc(name: str) -> dict[str, str]:
    """The entries of a file of Linux, the last of each name."""
    path = Path("/proc") / name
    lines = path.read_text().splitlines() if path.exists() else ()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _in_bytes(entry: str) -> int | None:
    words = _proc("meminfo").get(entry, "").split()
    return int(words[0]) * 1024 if words else None


def _group_free() -> int | None:
    """What a container's limit leaves."""
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if not limit.exists() or not limit.read_text().strip().isdigit():
        return None
    return int(limit.read_text()) - int(used.read_text())
