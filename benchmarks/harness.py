"""Timing: contestants take turns, so that a machine's other work slows all of them alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

Clock = Callable[[], float]

REST_SECONDS = 0.003
LONGEST_REST_SECONDS = 1.0
# Of one core, for the process to count as at rest.
_BUSY = 0.1
WARM_UP = 2


class Contestant(NamedTuple):
    """Something to be timed.

    Attributes:
      name: of the contestant; unique among those that take turns.
      call: starts repetition ``i`` of the work and gives what has to be waited for.
      wait: returns once that is there.
    """

    name: str
    call: Callable[[int], Any]
    wait: Callable[[Any], Any] = jax.block_until_ready


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, a number a sample.

    Attributes:
      samples: in the order they were taken.
    """

    samples: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError("samples=() is no timing; take at least one")

    @property
    def median(self) -> float:
        """Half of the samples took no longer."""
        return float(np.median(self.samples))

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between these lies the middle half of the samples."""
        low, high = np.percentile(self.samples, (25, 75))
        return float(low), float(high)


def settle(
    clock: Clock = time.perf_counter,
    busy_clock: Clock = time.process_time,
    sleep: Callable[[float], Any] = time.sleep,
) -> None:
    """Sleeps until the process is at rest.

    What a contestant leaves behind would count among the time of the next one: threads that spin
    for more work, gigabytes that are given back to the system after their result is there.

    Args:
      clock: seconds.
      busy_clock: seconds that the process's threads worked.
      sleep: for so many seconds.
    """
    latest = clock() + LONGEST_REST_SECONDS
    busy = True
    while busy and clock() < latest:
        begun, worked = clock(), busy_clock()
        sleep(REST_SECONDS)
        busy = busy_clock() - worked > _BUSY * (clock() - begun)


def take_turns(
    contestants: Sequence[Contestant],
    repetitions: int,
    *,
    calls: int = 1,
    warm_up: int = WARM_UP,
    clock: Clock = time.perf_counter,
    rest: Callable[[], Any] = settle,
) -> dict[str, Timing]:
    """Times contestants in rounds: each is sampled once a round, in an order that changes.

    Args:
      contestants: with names of their own.
      repetitions: rounds that count.
      calls: calls of a sample, started one after another and waited for together. More than one
        hides what the host does between calls, as a training loop does.
      warm_up: rounds before those, which do not count.
      clock: seconds.
      rest: before every sample.

    Returns:
      By name, the seconds of one call.

    Raises:
      ValueError: if two contestants share a name, or nothing would be measured.
    """
    names = [contestant.name for contestant in contestants]
    if len(set(names)) < len(names):
        raise ValueError(f"contestants {names} must have names of their own")
    if repetitions < 1 or calls < 1:
        raise ValueError(f"repetitions={repetitions} and calls={calls} must be at least 1")
    samples: dict[str, list[float]] = {name: [] for name in names}
    for repetition in range(warm_up + repetitions):
        # Another order each round: nobody always runs in the caches that one other left.
        for place in random.Random(repetition).sample(range(len(names)), len(names)):
            contestant = contestants[place]
            rest()
            begun = clock()
            for call in range(calls):
                started = contestant.call(repetition * calls + call)
            contestant.wait(started)
            seconds = (clock() - begun) / calls
            if repetition >= warm_up:
                samples[contestant.name].append(seconds)
    return {name: Timing(tuple(taken)) for name, taken in samples.items()}


class ProgramMemory(NamedTuple):
    """Bytes of a compiled program, as its compiler tells them.

    Attributes:
      arguments: of what goes in.
      outputs: of what comes out, donated buffers included.
      aliased: of outputs that stand in donated arguments.
      temporaries: of everything else that is held at once.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int

    @property
    def total(self) -> int:
        """The most that is held at once while the program runs."""
        return self.arguments + self.outputs - self.aliased + self.temporaries


class Program(NamedTuple):
    """A function compiled for its arguments.

    Attributes:
      run: the compiled function.
      compile_seconds: of tracing and compiling it.
      memory: ``None`` where the backend does not tell.
      compiled: what JAX compiled, for its texts and analyses.
    """

    run: Callable[..., Any]
    compile_seconds: float
    memory: ProgramMemory | None
    compiled: Any


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
    analysis = compiled.memory_analysis()
    memory = None
    if analysis is not None:
        memory = ProgramMemory(
            arguments=analysis.argument_size_in_bytes,
            outputs=analysis.output_size_in_bytes,
            aliased=analysis.alias_size_in_bytes,
            temporaries=analysis.temp_size_in_bytes,
        )
    return Program(compiled, seconds, memory, compiled)


class Stepper:
    """The call of a contestant that owns a state: every call takes it over and leaves the next.

    Attributes:
      state: after the calls so far.
    """

    def __init__(
        self, run: Callable[..., Any], state: Any, inputs: Sequence[tuple[Any, ...]]
    ) -> None:
        """Prepares the calls.

        Args:
          run: ``(state, *input) -> next state``; may take over the state's buffers.
          state: at first.
          inputs: taken in turn, so that caches do not answer.
        """
        self.state = state
        self._run = run
        self._inputs = inputs

    def __call__(self, repetition: int) -> Any:
        """Makes one step; returns the state to wait for."""
        self.state = self._run(self.state, *self._inputs[repetition % len(self._inputs)])
        return self.state


def over_inputs(run: Callable[..., Any], inputs: Sequence[tuple[Any, ...]]) -> Callable[[int], Any]:
    """The call of a contestant without a state: inputs are taken in turn."""
    return lambda repetition: run(*inputs[repetition % len(inputs)])


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals ``(begin, end)``."""
    total, end = 0.0, float("-inf")
    for begun, ended in sorted(intervals):
        total += max(0.0, ended - max(begun, end))
        end = max(end, ended)
    return total


class CompileWatch:
    """Counts what JAX compiles in a ``with`` block, and the seconds that this takes.

    Attributes:
      programs: compiled so far.
    """

    _EVENTS = "/jax/core/compile/"
    _COMPILED = "/jax/core/compile/backend_compile_duration"

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.programs = 0
        self._clock = clock
        self._intervals: list[tuple[float, float]] = []

    @property
    def seconds(self) -> float:
        """Seconds that passed while something was traced or compiled."""
        # Of functions traced within another, only the outer one's time counts.
        return covered(self._intervals)

    def __enter__(self) -> CompileWatch:
        jax.monitoring.register_event_duration_secs_listener(self._hear)
        return self

    def __exit__(self, *_: Any) -> None:
        jax.monitoring.unregister_event_duration_listener(self._hear)

    def _hear(self, event: str, duration_secs: float, **_: Any) -> None:
        if event.startswith(self._EVENTS):
            now = self._clock()
            self._intervals.append((now - duration_secs, now))
            self.programs += event == self._COMPILED
