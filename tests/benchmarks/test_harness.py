"""Turns, medians and compilations, by a clock that tests turn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.harness import (
    REST_SECONDS,
    CompileWatch,
    Holder,
    compile_for,
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

    def case(self, name: str, seconds):
        def call(repetition: int) -> None:
            self.calls.append((name, repetition))
            self.now += seconds(repetition)

        return call

    def take(self, cases, repetitions, rest=lambda: None, **options):
        return take_turns(cases, repetitions, clock=self, rest=rest, **options)


def test_everyone_runs_once_a_round_in_orders_that_change_and_warm_up_does_not_count():
    clock, names = Clock(), ("a", "b", "c")
    cases = {name: clock.case(name, lambda i: 9.0 if i < 2 else float(i)) for name in names}
    assert clock.take(cases, 4, warm_up=2) == {name: [2.0, 3.0, 4.0, 5.0] for name in names}
    rounds = [clock.calls[start : start + 3] for start in range(0, 18, 3)]
    for number, calls in enumerate(rounds):
        assert sorted(calls) == [(name, number) for name in names]
    assert len({tuple(name for name, _ in calls) for calls in rounds}) > 1


def test_a_sample_of_several_calls_is_shared_among_them_and_resting_does_not_count():
    clock = Clock()

    def rest() -> None:
        clock.now += 50.0

    case = clock.case("a", lambda i: 2.0 if i % 4 == 0 else 1.0)
    assert clock.take({"a": case}, 2, rest, calls=4, warm_up=1)["a"] == [5.0 / 4] * 2
    assert [repetition for _, repetition in clock.calls] == list(range(12))


@pytest.mark.parametrize(("busy_for", "rests"), [(0.0, 1), (0.0031, 2), (0.04, 15), (1e9, 334)])
def test_a_process_settles_once_it_works_no_more(busy_for, rests):
    slept = []

    def now() -> float:
        return sum(slept)

    settle(now, lambda: min(now(), busy_for), slept.append)
    assert len(slept) == rests
    assert set(slept) == {REST_SECONDS}


def test_a_program_tells_its_memory_and_is_traced_anew():
    switch = [1.0]

    def function(table, row):
        return table.at[0].set(row + switch[0])

    table = jax.ShapeDtypeStruct((64, 4), jnp.float32)
    first = compile_for(function, table, table.update(shape=(4,)), donate=(0,))
    assert first.compile_seconds > 0
    assert first.memory["arguments"] == 65 * 16
    assert first.memory["outputs"] == first.memory["aliased"] == 64 * 16
    assert first.memory["total"] == 65 * 16 + first.memory["temporaries"]
    switch[0] = 2.0
    again = compile_for(function, table, table.update(shape=(4,)))
    found = [of.run(jnp.zeros((64, 4)), jnp.arange(4.0))[0] for of in (first, again)]
    np.testing.assert_array_equal(found, [np.arange(4) + 1, np.arange(4) + 2])


def test_a_held_state_is_handed_on_and_inputs_are_taken_in_turn():
    holder = Holder(("table",))
    inputs = [("a",), ("b",), ("c",)]
    step = holder.call(lambda state, x: (*state, x), inputs, "writes")
    for repetition in range(5):
        step(repetition)
    assert holder.state == ("table", "a", "b", "c", "a", "b")
    assert holder.call(lambda table, x: table + x, inputs, "reads")(4) == "tableb"
    assert [holder.call(lambda x: x, inputs)(i) for i in range(4)] == ["a", "b", "c", "a"]


def test_nested_traces_count_once():
    now = [10.0]
    watch = CompileWatch(lambda: now[0])
    for ended, seconds in ((12.0, 1.0), (13.0, 3.0), (20.0, 2.0)):
        now[0] = ended
        watch.hear("/jax/core/compile/jaxpr_trace_duration", seconds)
    watch.hear("/jax/something/else", 100.0)
    assert (watch.seconds, watch.programs) == (5.0, 0)
