"""Timing: cases take turns, so that a machine's other work slows all of them alike."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax

Clock = Callable[[], float]
Call = Callable[[int], Any]  # starts a repetition and gives what is to be waited for
Inputs = Sequence[tuple[Any, ...]]
REST_SECONDS, LONGEST_REST_SECONDS = 0.003, 1.0
_BUSY = 0.1  # of one core, for the process to count as at rest


def settle(
    clock: Clock = time.perf_counter,
    busy_clock: Clock = time.process_time,
    sleep: Callable[[float], Any] = time.sleep,
) -> None:
    """Sleeps until what a case leaves behind, such as threads that spin, slows the next no more."""
    latest, busy = clock() + LONGEST_REST_SECONDS, True
    while busy and clock() < latest:
        begun, worked = clock(), busy_clock()
        sleep(REST_SECONDS)
        busy = busy_clock() - worked > _BUSY * (clock() - begun)


def take_turns(
    cases: Mapping[str, Call],
    repetitions: int,
    *,
    calls: int = 1,
    warm_up: int = 2,
    clock: Clock = time.perf_counter,
    rest: Callable[[], Any] = settle,
) -> dict[str, list[float]]:
    """Times cases in rounds: each is sampled once a round, after a rest; gives seconds of a call.

    The ``calls`` of a sample are waited for together, as in training, which hides what the host
    does between them. Rounds of ``warm_up`` do not count.
    """
    samples: dict[str, list[float]] = {name: [] for name in cases}
    for repetition in range(warm_up + repetitions):
        # Another order each round: nobody always runs in the caches that one other left.
        for name in random.Random(repetition).sample(list(cases), len(cases)):
            rest()
            begun, started = clock(), None  # no list: what a call gives is let go at the next
            for call in range(calls):
                started = cases[name](repetition * calls + call)
            jax.block_until_ready(started)
            samples[name].append((clock() - begun) / calls)
    return {name: taken[warm_up:] for name, taken in samples.items()}


class Program(NamedTuple):
    """What JAX compiled, the seconds of tracing and compiling, and bytes of memory by their use."""

    run: Any
    compile_seconds: float
    memory: dict[str, int]  # outputs include the aliased, part of arguments; total: while it runs


def compile_for(function: Any, *arguments: Any, donate: Sequence[int] = ()) -> Program:
    """Compiles a function for arguments, or their shapes; outputs take over those to ``donate``."""
    # Of a function that JAX knows already, it would take what it traced before.
    fresh = jax.jit(lambda *given: function(*given), donate_argnums=tuple(donate))
    return program_of(fresh, *arguments)


def program_of(jitted: Any, *arguments: Any) -> Program:
    """Compiles a jitted function, of which nothing was compiled yet, likewise."""
    begun = time.perf_counter()
    compiled = jitted.lower(*arguments).compile()
    seconds = time.perf_counter() - begun
    told, parts = compiled.memory_analysis(), ("argument", "output", "alias", "temp")
    sizes = (getattr(told, f"{part}_size_in_bytes") for part in parts)
    memory = dict(zip(("arguments", "outputs", "aliased", "temporaries"), sizes, strict=True))
    total = sum(memory.values()) - 2 * memory["aliased"]
    return Program(compiled, seconds, memory | {"total": total})


class Holder:
    """A state that cases share: one that ``writes`` takes it over, one that ``reads`` its table."""

    def __init__(self, state: Any = None) -> None:
        self.state = state

    def given(self, how: str) -> tuple[Any, ...]:
        """What such a case is given before its inputs: the state, its first part, or nothing."""
        if how == "writes":
            return (self.state,)
        return self.state[:1] if how == "reads" else ()

    def call(self, run: Callable[..., Any], inputs: Inputs, how: str = "") -> Call:
        """A call that takes inputs in turn, so that caches do not answer."""

        def call(repetition: int) -> Any:
            out = run(*self.given(how), *inputs[repetition % len(inputs)])
            if how == "writes":
                self.state = out
            return out

        return call


class CompileWatch:
    """Counts what JAX compiles in a ``with`` block, and the seconds that this takes."""

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.programs, self.elapsed = 0, 0.0
        self._clock, self._begun = clock, clock()
        self._intervals: list[tuple[float, float]] = []

    @property
    def seconds(self) -> float:
        """Of functions traced within another, only the outer one's time counts."""
        total, end = 0.0, float("-inf")
        for begun, ended in sorted(self._intervals):
            total += max(0.0, ended - max(begun, end))
            end = max(end, ended)
        return total

    def __enter__(self) -> Self:
        jax.monitoring.register_event_duration_secs_listener(self.hear)
        return self

    def __exit__(self, *_: Any) -> None:
        jax.monitoring.unregister_event_duration_listener(self.hear)
        self.elapsed = self._clock() - self._begun

    def hear(self, event: str, duration_secs: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            now = self._clock()
            self._intervals.append((now - duration_secs, now))
            self.programs += event.endswith("/backend_compile_duration")
