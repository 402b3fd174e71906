"""The machine: what it is, how fast it copies and multiplies, what memory it and a process have."""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.harness import Holder, compile_for, take_turns
from smf_jax.cpu_kernels.library import is_available

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "libtpu")


class Rates(NamedTuple):
    """At best in a second: bytes a copy reads and writes, operations of a product (two a term)."""

    copy_bytes: float
    operations: float
    dtype: str

    def __str__(self) -> str:
        copies = f"copies at {self.copy_bytes / 1e9:.3g} GB/s (read and written)"
        return f"{copies}, multiplies {self.dtype} matrices at {self.operations / 1e9:,.0f} GFLOP/s"


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
        "memory_bytes": _in_bytes("meminfo", "MemTotal"),
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
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        limit = stats.get("bytes_limit")
        return None if limit is None else limit - stats.get("bytes_in_use", 0)
    free = [_in_bytes("meminfo", "MemAvailable")]
    # What a container's limit leaves.
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and limit.read_text().strip().isdigit():
        free.append(int(limit.read_text()) - int(used.read_text()))
    return min(filter(None, free), default=None)


def peak_bytes() -> int | None:
    """The most memory that was ever in use: the device's, or this process's on a CPU."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("peak_bytes_in_use")
    return _in_bytes("self/status", "VmHWM")  # a child inherits ru_maxrss of its parent


def ask_child(module: str, task: dict[str, Any]) -> dict[str, Any]:
    """What ``python -m module TASK`` tells; `ValueError` if it fails or knows no peak memory."""
    command = [sys.executable, "-m", module, json.dumps(task)]
    # On a CPU nothing else is wanted: the plugins of other platforms take memory too.
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    child = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"{module} ended with status {child.returncode}: {last}")
    told = json.loads(child.stdout.strip().splitlines()[-1])
    if told["peak_bytes"] is None:
        raise ValueError("this system does not tell the peak memory of a process")
    return told


def measure_rates(repetitions: int = 10, dtype: Any = jnp.float32, smaller: int = 1) -> Rates:
    """Measures copies, of more than a cache holds, and products of matrices; the fastest count."""
    on_cpu = jax.default_backend() == "cpu"
    width = (2048 if on_cpu else 8192) // smaller
    source = jnp.ones((2**26 if on_cpu else 2**28) // smaller**2, jnp.float32)
    matrix = jax.random.normal(jax.random.key(0), (width, width), dtype)
    copying = Holder(jnp.zeros_like(source)).call(compile_copy(source), [(source,)], "writes")
    multiply = compile_for(lambda a, b: jnp.matmul(a, b), matrix, matrix).run
    cases = {"copy": copying, "multiply": lambda _: multiply(matrix, matrix)}
    timings = take_turns(cases, repetitions, calls=1 if on_cpu else 10)
    copied, multiplied = (min(timings[name]) for name in cases)
    return Rates(2 * source.nbytes / copied, 2 * width**3 / multiplied, jnp.dtype(dtype).name)


def compile_copy(source: Any) -> Any:
    """``(target, source) -> copy of source`` in the buffer of the target."""
    # Pages that the system has yet to give would be timed, and a mere copy may use one thread.
    copy = jax.jit(lambda target, source: source + 1, donate_argnums=0, keep_unused=True)
    return copy.lower(source, source).compile()


def _proc(name: str) -> dict[str, str]:
    path = Path("/proc") / name
    lines = path.read_text().splitlines() if path.exists() else ()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _in_bytes(file: str, entry: str) -> int | None:
    """An entry that Linux tells in kB; ``None`` elsewhere."""
    words = _proc(file).get(entry, "").split()
    return int(words[0]) * 1024 if words else None
