"""Turns, medians and compilations, by a clock that tests turn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.harness import (
    REST_SECONDS,
    CompileWatch,
    Contestant,
    Stepper,
    Timing,
    compile_for,
    covered,
    over_inputs,
    settle,
    take_turns,
)


class Clock:
    """Time passes only where a contestant lets it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls: list[tuple[str, int]] = []
        self.waits: list[str] = []

    def __call__(self) -> float:
        return self.now

    def contestant(self, name: str, seconds, waiting: float = 0.0) -> Contestant:
        def call(repetition: int) -> str:
            self.calls.append((name, repetition))
            self.now += seconds(repetition)
            return name

        def wait(started: str) -> None:
            assert started == name
            self.now += waiting
            self.waits.append(name)

        return Contestant(name, call, wait)

    def take(self, contestants, repetitions, **options):
        return take_turns(contestants, repetitions, clock=self, rest=lambda: None, **options)


def test_the_median_and_the_quartiles_are_those_of_the_rounds_that_count():
    clock = Clock()
    slow_at_first = clock.contestant("slow at first", lambda i: 9.0 if i < 3 else float(i))
    steady = clock.contestant("steady", lambda _: 0.25)
    timings = clock.take([slow_at_first, steady], 5, warm_up=3)
    assert timings["slow at first"].samples == (3.0, 4.0, 5.0, 6.0, 7.0)
    assert timings["slow at first"].median == 5.0
    assert timings["slow at first"].quartiles == (4.0, 6.0)
    assert timings["steady"].samples == (0.25,) * 5


def test_everyone_runs_once_a_round_in_orders_that_change():
    clock = Clock()
    names = ("a", "b", "c")
    clock.take([clock.contestant(name, lambda _: 1.0) for name in names], 6, warm_up=0)
    rounds = [clock.calls[start : start + 3] for start in range(0, 18, 3)]
    for number, calls in enumerate(rounds):
        assert sorted(calls) == [(name, number) for name in names]
    assert len({tuple(name for name, _ in calls) for calls in rounds}) > 1


def test_calls_of_a_sample_are_started_together_and_waited_for_once():
    clock = Clock()
    timings = clock.take([clock.contestant("a", lambda _: 1.0, 2.0)], 2, calls=4, warm_up=1)
    assert timings["a"].samples == ((4 * 1.0 + 2.0) / 4,) * 2
    assert [repetition for _, repetition in clock.calls] == list(range(12))
    assert len(clock.waits) == 3


def test_resting_does_not_count():
    clock = Clock()

    def rest() -> None:
        clock.now += 50.0

    contestant = clock.contestant("a", lambda _: 1.0)
    assert take_turns([contestant], 2, clock=clock, rest=rest)["a"].samples == (1.0, 1.0)


@pytest.mark.parametrize(("busy_for", "rests"), [(0.0, 1), (0.0031, 2), (0.04, 15), (1e9, 334)])
def test_a_process_settles_once_it_works_no_more(busy_for, rests):
    slept = []

    def now() -> float:
        return sum(slept)

    settle(now, lambda: min(now(), busy_for), slept.append)
    assert len(slept) == rests
    assert set(slept) == {REST_SECONDS}


@pytest.mark.parametrize("wrong", [{"repetitions": 0}, {"repetitions": 1, "calls": 0}])
def test_nothing_to_measure_is_refused(wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        Clock().take([Clock().contestant("a", lambda _: 1.0)], **wrong)
    with pytest.raises(ValueError, match="at least one"):
        Timing(())


def test_two_of_one_name_are_refused():
    clock = Clock()
    with pytest.raises(ValueError, match=r"\['a', 'a'\].*names of their own"):
        clock.take([clock.contestant("a", lambda _: 1.0)] * 2, 1)


def test_a_program_tells_its_memory_and_the_time_it_took():
    clock = Clock()

    def function(table, row):
        clock.now += 3.0  # traced once
        return table.at[0].set(row)

    table = jax.ShapeDtypeStruct((64, 4), jnp.float32)
    program = compile_for(function, table, table.update(shape=(4,)), donate=(0,), clock=clock)
    assert program.compile_seconds == 3.0
    assert program.memory is not None
    assert program.memory.arguments == 65 * 16
    assert program.memory.outputs == program.memory.aliased == 64 * 16
    found = program.run(jnp.zeros((64, 4)), jnp.arange(4.0))
    np.testing.assert_array_equal(found[:2], [np.arange(4), np.zeros(4)])


def test_a_function_that_was_compiled_before_is_compiled_anew():
    switch = [1.0]

    def function(x):
        return x + switch[0]

    x = jnp.zeros(3)
    first = compile_for(function, x)
    switch[0] = 2.0
    assert compile_for(function, x).run(x)[0] == 2.0
    assert first.run(x)[0] == 1.0


def test_a_stepper_hands_its_state_on_and_takes_inputs_in_turn():
    stepper = Stepper(lambda state, x: [*state, x], [], [("a",), ("b",), ("c",)])
    for repetition in range(5):
        stepper(repetition)
    assert stepper.state == ["a", "b", "c", "a", "b"]
    call = over_inputs(lambda *input: input, [(1, 2), (3, 4)])
    assert [call(repetition) for repetition in range(3)] == [(1, 2), (3, 4), (1, 2)]


@pytest.mark.parametrize("seed", range(5))
def test_the_union_of_intervals_is_that_of_their_points(seed):
    rng = np.random.default_rng(seed)
    begins = rng.integers(0, 50, 12)
    intervals = [(int(b), int(b + n)) for b, n in zip(begins, rng.integers(0, 9, 12), strict=True)]
    points = {point for begin, end in intervals for point in range(begin, end)}
    assert covered(intervals) == len(points)


def test_compilations_in_a_block_are_counted_and_those_after_it_are_not():
    x = jnp.zeros(3)
    step = jax.jit(lambda x: x * 3 - 1)
    with CompileWatch() as watch:
        step(x)
    assert watch.programs == 1
    assert watch.seconds > 0
    with CompileWatch() as again:
        step(x)
    jax.jit(lambda x: x * 5 - 1)(x)
    assert (again.programs, again.seconds) == (0, 0)
    assert watch.programs == 1


def test_nested_traces_count_once():
    now = [10.0]
    watch = CompileWatch(lambda: now[0])
    for ended, seconds in ((12.0, 1.0), (13.0, 3.0), (20.0, 2.0)):
        now[0] = ended
        watch._hear("/jax/core/compile/jaxpr_trace_duration", seconds)
    watch._hear("/jax/something/else", 100.0)
    assert watch.seconds == 5.0
    assert watch.programs == 0
