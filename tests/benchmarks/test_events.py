"""Device time from a profile."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp

from benchmarks import events
from benchmarks.events import busy_seconds, device_intervals


def line(name, *spans):
    found = [SimpleNamespace(start_ns=begin, duration_ns=end - begin) for begin, end in spans]
    return SimpleNamespace(name=name, events=found)


def profile(*lines):
    return [
        SimpleNamespace(name="/host:CPU", lines=[line("python", (0, 1000))]),
        SimpleNamespace(name="/device:GPU:0", lines=lines),
        SimpleNamespace(name="/device:GPU:1", lines=[line("Stream #1", (0, 500))]),
    ]


def test_what_the_first_device_s_streams_ran_counts_and_sums_of_it_do_not():
    planes = profile(
        line("Stream #13(Compute)", (0, 10), (20, 30)),
        line("Stream #14(MemcpyD2D)", (25, 40)),
        line("XLA Modules", (0, 100)),
    )
    assert list(device_intervals(planes)) == [(0, 10), (20, 30), (25, 40)]
    assert list(device_intervals(profile(line("XLA Ops", (5, 6))))) == [(5, 6)]
    assert list(device_intervals(planes[:1])) == []


def test_time_a_device_was_busy_is_of_one_call(monkeypatch):
    planes = profile(line("Stream #13", (0, 3e9), (2e9, 5e9), (6e9, 7e9)))
    data = SimpleNamespace(from_file=lambda _: SimpleNamespace(planes=planes))
    monkeypatch.setattr(jax.profiler, "ProfileData", data)
    double = jax.jit(lambda x: 2 * x)
    calls = []

    def call(repetition):
        calls.append(repetition)
        return double(jnp.ones(3))

    assert busy_seconds(call) == 6 / events._CALLS
    assert calls == list(range(events._CALLS))


def test_a_processor_has_no_device_time():
    double = jax.jit(lambda x: 2 * x)
    assert busy_seconds(lambda _: double(jnp.ones(3))) is None
