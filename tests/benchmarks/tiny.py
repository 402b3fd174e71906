"""A tiny memory block and reports of it, for tests of what measures it."""

from __future__ import annotations

from typing import Any

from benchmarks.costs import BlockShape
from benchmarks.flags import BenchmarkConfig
from benchmarks.machine import Rates
from benchmarks.report import Report
from smf_jax.memory.config import MemoryConfig

MACHINE = {
    "platform": "cpu",
    "device_kind": "cpu",
    "devices": 1,
    "cpu": "a processor",
    "cores": 2,
    "cpu_kernels": True,
    "memory_bytes": 2**34,
    "system": "Linux",
    "python": "3.11.7",
    "versions": {"jax": "0.10.2"},
}
# Cases of the suite step, on one table.
PARTS = [
    "smf",
    "forward and back to the read",
    "after the forward",
    "after the forward, vector form",
    "after the forward, sorted form",
    "count and select",
    "row gradient",
    "update and write",
]
RATES = Rates(copy_bytes=1e9, operations=1e10, dtype="float32")
BLOCK: dict[str, Any] = dict(tokens=16, width=8, memory_heads=2, reads=4, key_width=8, budget=16)
TINY = BLOCK | dict(table_slots="64,256", repetitions=2, torch=False, peak=False, scale=0.02)


def flags(**changes: Any) -> BenchmarkConfig:
    return BenchmarkConfig(**{**TINY, **changes})


def report(lines: list[str] | None = None) -> Report:
    return Report(dict(MACHINE), {}, (lambda _: None) if lines is None else lines.append, RATES)


def shape(keys: int = 16) -> BlockShape:
    return BlockShape(MemoryConfig(keys, 2, 4, 8, 8), tokens=16, width=8, budget=16)


def names_of(told: Report) -> list[str]:
    """Names of what was measured, in order."""
    return [row["name"] for row in told.measurements]
