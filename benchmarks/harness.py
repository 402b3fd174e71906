"""Timing: cases take turns, so that a machine's other work slows all of them alike."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

Clock = Callable[[], float]
Call = Callable[[int], Any]
Inputs = Sequence[tuple[Any, ...]]
REST_SECONDS = 0.003
LONGEST_REST_SECONDS = 1.0
PROFILED_CALLS = 10
_BUSY = 0.1  # of one core, for the process to count as at rest


class Case(NamedTuple):
    """Something to be timed: `call` starts repetition ``i`` and gives what is to be waited for."""

    name: str
    call: Call


class Timing(NamedTuple):
    """Seconds of one call, a number a sample, in the order they were taken."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of the samples took no longer."""
        return float(np.median(self.samples))

    @property
    def quartiles(self) -> list[float]:
        """Between these lies the middle half of the samples."""
        return np.percentile(self.samples, (25, 75)).tolist()


def settle(
    clock: Clock = time.perf_counter,
    busy_clock: Clock = time.process_time,
    sleep: Callable[[float], Any] = time.sleep,
) -> None:
    """Sleeps until the process is at rest.

    What a case leaves behind would count among the time of the next one: threads that spin for
    more work, gigabytes that are given back to the system after their result is there.
    """
    latest = clock() + LONGEST_REST_SECONDS
    busy = True
    while busy and clock() < latest:
        begun, worked = clock(), busy_clock()
        sleep(REST_SECONDS)
        busy = busy_clock() - worked > _BUSY * (clock() - begun)


def take_turns(
    cases: Sequence[Case],
    repetitions: int,
    *,
    calls: int = 1,
    warm_up: int = 2,
    clock: Clock = time.perf_counter,
    rest: Callable[[], Any] = settle,
) -> dict[str, Timing]:
    """Times cases in rounds: each is sampled once a round, in an order that changes.

    Args:
      cases: with names of their own.
      repetitions: rounds that count.
      calls: calls of a sample, started one after another and waited for together. More than one
        hides what the host does between calls, as a training loop does.
      warm_up: rounds before those, which do not count.
      clock: seconds.
      rest: before every sample.

    Returns:
      By name, the seconds of one call.

    Raises:
      ValueError: if two cases share a name, or nothing would be measured.
    """
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        raise ValueError(f"cases {names} must have names of their own")
    if repetitions < 1 or calls < 1:
        raise ValueError(f"repetitions={repetitions} and calls={calls} must be at least 1")
    samples: dict[str, list[float]] = {name: [] for name in names}
    for repetition in range(warm_up + repetitions):
        # Another order each round: nobody always runs in the caches that one other left.
        for case in random.Random(repetition).sample(cases, len(cases)):
            rest()
            begun = clock()
            for call in range(calls):
                started = case.call(repetition * calls + call)
            jax.block_until_ready(started)
            seconds = (clock() - begun) / calls
            if repetition >= warm_up:
                samples[case.name].append(seconds)
    return {name: Timing(tuple(taken)) for name, taken in samples.items()}


class ProgramMemory(NamedTuple):
    """Bytes of a compiled program; outputs include the `aliased`, which stand in arguments."""

    arguments: int
    outputs: int
    aliased: int
    temporaries: int

    @property
    def held(self) -> int:
        """What is there before or after the program runs."""
        return self.arguments + self.outputs - self.aliased


class Program(NamedTuple):
    """What JAX compiled, the seconds of tracing and compiling, and its memory if that is told."""

    run: Any
    compile_seconds: float
    memory: ProgramMemory | None


def compile_for(
    function: Callable[..., Any],
    *arguments: Any,
    donate: Sequence[int] = (),
    clock: Clock = time.perf_counter,
) -> Program:
    """Compiles a function for arguments such as these, which may be shapes.

    Args:
      function: to compile.
      *arguments: arrays, or their `jax.ShapeDtypeStruct`.
      donate: places of arguments whose buffers the outputs take over.
      clock: seconds.
    """

    def fresh(*given: Any) -> Any:
        # Of a function that JAX knows already, it would take what it traced before.
        return function(*given)

    begun = clock()
    compiled = jax.jit(fresh, donate_argnums=tuple(donate)).lower(*arguments).compile()
    seconds = clock() - begun
    analysis, memory = compiled.memory_analysis(), None
    if analysis is not None:
        parts = ("argument", "output", "alias", "temp")
        memory = ProgramMemory(*(getattr(analysis, f"{part}_size_in_bytes") for part in parts))
    return Program(compiled, seconds, memory)


class Holder:
    """A state that cases share: some take it over and leave the next, others read its table."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def stepping(self, run: Callable[..., Any], inputs: Inputs) -> Call:
        """A call ``(state, *input) -> next state``, which may take over the state's buffers."""

        def call(repetition: int) -> Any:
            self.state = run(self.state, *inputs[repetition % len(inputs)])
            return self.state

        return call

    def reading(self, run: Callable[..., Any], inputs: Inputs) -> Call:
        """A call that is given the state's first part, the table."""
        return lambda repetition: run(self.state[0], *inputs[repetition % len(inputs)])


def over_inputs(run: Callable[..., Any], inputs: Inputs) -> Call:
    """A call without a state: inputs are taken in turn, so that caches do not answer."""
    return lambda repetition: run(*inputs[repetition % len(inputs)])


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals ``(begin, end)``."""
    total, end = 0.0, float("-inf")
    for begun, ended in sorted(intervals):
        total += max(0.0, ended - max(begun, end))
        end = max(end, ended)
    return total


class CompileWatch:
    """Counts what JAX compiles in a ``with`` block, and the seconds that this takes."""

    _EVENTS = "/jax/core/compile/"

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.programs = 0
        self._clock = clock
        self._intervals: list[tuple[float, float]] = []

    @property
    def seconds(self) -> float:
        """Of functions traced within another, only the outer one's time counts."""
        return covered(self._intervals)

    def __enter__(self) -> CompileWatch:
        jax.monitoring.register_event_duration_secs_listener(self.hear)
        return self

    def __exit__(self, *_: Any) -> None:
        jax.monitoring.unregister_event_duration_listener(self.hear)

    def hear(self, event: str, duration_secs: float, **_: Any) -> None:
        """Takes note of what JAX tells of itself."""
        if event.startswith(self._EVENTS):
            now = self._clock()
            self._intervals.append((now - duration_secs, now))
            self.programs += event == f"{self._EVENTS}backend_compile_duration"


def busy_seconds(call: Call) -> float | None:
    """Seconds of one warm call during which the device worked; ``None`` where no device tells."""
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            for repetition in range(PROFILED_CALLS):
                started = call(repetition)
            jax.block_until_ready(started)
        files = sorted(Path(directory).rglob("*.xplane.pb"))
        planes = jax.profiler.ProfileData.from_file(str(files[0])).planes if files else ()
        intervals = list(device_intervals(planes))
    return covered(intervals) / 1e9 / PROFILED_CALLS if intervals else None


def device_intervals(planes: Iterable[Any]) -> Iterable[tuple[float, float]]:
    """Begin and end, in nanoseconds, of everything that the first device ran.

    A GPU has a line for each of its streams, a TPU one of its operations; other lines of a device
    sum these up and span the gaps between them.
    """
    device = next((plane for plane in planes if plane.name.startswith("/device:")), None)
    for line in device.lines if device else ():
        if line.name.startswith("Stream") or line.name == "XLA Ops":
            for event in line.events:
                yield event.start_ns, event.start_ns + event.duration_ns
