"""Turns, medians and compilations, by a clock that tests turn."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.harness import (
    REST_SECONDS,
    Case,
    CompileWatch,
    Holder,
    busy_seconds,
    compile_for,
    device_intervals,
    over_inputs,
    settle,
    take_turns,
)


class Clock:
    """Time passes only where a case lets it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls: list[tuple[str, int]] = []

    def __call__(self) -> float:
        return self.now

    def case(self, name: str, seconds) -> Case:
        def call(repetition: int) -> None:
            self.calls.append((name, repetition))
            self.now += seconds(repetition)

        return Case(name, call)

    def take(self, cases, repetitions, rest=lambda: None, **options):
        return take_turns(cases, repetitions, clock=self, rest=rest, **options)


def test_the_median_and_the_quartiles_are_those_of_the_rounds_that_count():
    clock = Clock()
    slow_at_first = clock.case("slow at first", lambda i: 9.0 if i < 3 else float(i))
    steady = clock.case("steady", lambda _: 0.25)
    timings = clock.take([slow_at_first, steady], 5, warm_up=3)
    assert timings["slow at first"].samples == (3.0, 4.0, 5.0, 6.0, 7.0)
    assert timings["slow at first"].median == 5.0
    assert timings["slow at first"].quartiles == [4.0, 6.0]
    assert timings["steady"].samples == (0.25,) * 5


def test_everyone_runs_once_a_round_in_orders_that_change():
    clock = Clock()
    names = ("a", "b", "c")
    clock.take([clock.case(name, lambda _: 1.0) for name in names], 6, warm_up=0)
    rounds = [clock.calls[start : start + 3] for start in range(0, 18, 3)]
    for number, calls in enumerate(rounds):
        assert sorted(calls) == [(name, number) for name in names]
    assert len({tuple(name for name, _ in calls) for calls in rounds}) > 1


def test_a_sample_of_several_calls_is_shared_among_them_and_resting_does_not_count():
    clock = Clock()

    def rest() -> None:
        clock.now += 50.0

    case = clock.case("a", lambda i: 2.0 if i % 4 == 0 else 1.0)
    timings = clock.take([case], 2, rest, calls=4, warm_up=1)
    assert timings["a"].samples == (5.0 / 4,) * 2
    assert [repetition for _, repetition in clock.calls] == list(range(12))


@pytest.mark.parametrize(("busy_for", "rests"), [(0.0, 1), (0.0031, 2), (0.04, 15), (1e9, 334)])
def test_a_process_settles_once_it_works_no_more(busy_for, rests):
    slept = []

    def now() -> float:
        return sum(slept)

    settle(now, lambda: min(now(), busy_for), slept.append)
    assert len(slept) == rests
    assert set(slept) == {REST_SECONDS}


def test_nothing_to_measure_and_two_of_one_name_are_refused():
    clock = Clock()
    case = clock.case("a", lambda _: 1.0)
    for wrong in ({"repetitions": 0}, {"repetitions": 1, "calls": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            clock.take([case], **wrong)
    with pytest.raises(ValueError, match=r"\['a', 'a'\].*names of their own"):
        clock.take([case] * 2, 1)


def test_a_program_tells_its_memory_and_the_time_it_took_and_is_compiled_anew():
    clock, switch = Clock(), [1.0]

    def function(table, row):
        clock.now += 3.0  # traced once
        return table.at[0].set(row + switch[0])

    table = jax.ShapeDtypeStruct((64, 4), jnp.float32)
    first = compile_for(function, table, table.update(shape=(4,)), donate=(0,), clock=clock)
    assert first.compile_seconds == 3.0
    assert first.memory.arguments == 65 * 16
    assert first.memory.outputs == first.memory.aliased == 64 * 16
    switch[0] = 2.0
    again = compile_for(function, table, table.update(shape=(4,)))
    found = [of.run(jnp.zeros((64, 4)), jnp.arange(4.0))[0] for of in (first, again)]
    np.testing.assert_array_equal(found, [np.arange(4) + 1, np.arange(4) + 2])


def test_a_held_state_is_handed_on_and_inputs_are_taken_in_turn():
    holder = Holder(("table",))
    inputs = [("a",), ("b",), ("c",)]
    step = holder.stepping(lambda state, x: (*state, x), inputs)
    for repetition in range(5):
        step(repetition)
    assert holder.state == ("table", "a", "b", "c", "a", "b")
    assert holder.reading(lambda table, x: table + x, inputs)(4) == "tableb"
    call = over_inputs(lambda *input: input, [(1, 2), (3, 4)])
    assert [call(repetition) for repetition in range(3)] == [(1, 2), (3, 4), (1, 2)]


def test_nested_traces_count_once():
    now = [10.0]
    watch = CompileWatch(lambda: now[0])
    for ended, seconds in ((12.0, 1.0), (13.0, 3.0), (20.0, 2.0)):
        now[0] = ended
        watch.hear("/jax/core/compile/jaxpr_trace_duration", seconds)
    watch.hear("/jax/something/else", 100.0)
    assert (watch.seconds, watch.programs) == (5.0, 0)


def test_what_the_first_device_s_streams_ran_counts_and_sums_of_it_do_not():
    def line(name, *spans):
        found = [SimpleNamespace(start_ns=begin, duration_ns=end - begin) for begin, end in spans]
        return SimpleNamespace(name=name, events=found)

    streams = [line("Stream #13(Compute)", (0, 10), (20, 30)), line("XLA Modules", (0, 100))]
    planes = [
        SimpleNamespace(name="/host:CPU", lines=[line("python", (0, 1000))]),
        SimpleNamespace(name="/device:GPU:0", lines=[*streams, line("XLA Ops", (25, 40))]),
        SimpleNamespace(name="/device:GPU:1", lines=[line("Stream #1", (0, 500))]),
    ]
    assert list(device_intervals(planes)) == [(0, 10), (20, 30), (25, 40)]
    double = jax.jit(lambda x: 2 * x)
    assert busy_seconds(lambda _: double(jnp.ones(3))) is None  # a processor is no device
