"""Device time from the profiler: how long a device was busy, whatever the host did meanwhile."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax

from benchmarks.harness import covered

_CALLS = 10


def busy_seconds(
    call: Callable[[int], Any], wait: Callable[[Any], Any] = jax.block_until_ready
) -> float | None:
    """Seconds of one call during which the device worked; ``None`` where no device tells.

    Args:
      call: as of a contestant, compiled and warm.
      wait: likewise.
    """
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            for repetition in range(_CALLS):
                started = call(repetition)
            wait(started)
        files = sorted(Path(directory).rglob("*.xplane.pb"))
        if not files:
            return None
        planes = jax.profiler.ProfileData.from_file(str(files[0])).planes
        intervals = list(device_intervals(planes))
    return covered(intervals) / 1e9 / _CALLS if intervals else None


def device_intervals(planes: Iterable[Any]) -> Iterable[tuple[float, float]]:
    """Begin and end, in nanoseconds, of everything that the first device ran.

    A GPU has a line for each of its streams, a TPU one of its operations; other lines of a device
    sum these up and span the gaps between them.
    """
    device = next((plane for plane in planes if plane.name.startswith("/device:")), None)
    if device is None:
        return
    for line in device.lines:
        if line.name.startswith("Stream") or line.name == "XLA Ops":
            for event in line.events:
                yield event.start_ns, event.start_ns + event.duration_ns
