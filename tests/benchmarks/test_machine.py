"""What is told of the machine, its rates, and the memory of processes."""

from __future__ import annotations

import json
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import machine
from benchmarks.machine import describe_machine, machine_line, measure_rates
from tests.benchmarks.tiny import MACHINE


def test_the_machine_is_told_as_json_with_the_versions_that_run():
    told = describe_machine()
    assert json.loads(json.dumps(told)) == told
    assert told.keys() == MACHINE.keys()
    assert {"jax", "jaxlib", "flax", "optax", "numpy"} <= told["versions"].keys()
    assert machine_line(MACHINE) == "2 cores of a processor, Python 3.11.7, jax 0.10.2"
    other = MACHINE | {"platform": "gpu", "device_kind": "H200", "cpu_kernels": False}
    assert machine_line(other).startswith("1 H200, 2 cores of a processor, Python")
    assert "without the kernels" in machine_line(MACHINE | {"cpu_kernels": False})


def test_rates_can_be_measured_and_a_copy_goes_into_the_memory_of_its_target():
    rates = measure_rates(2, jnp.bfloat16, smaller=128)
    assert min(rates[:2]) > 0
    assert rates.dtype == "bfloat16"
    source, target = jnp.arange(1024.0), jnp.zeros(1024)
    place = target.unsafe_buffer_pointer()
    copied = machine.compile_copy(source)(target, source)
    assert copied.unsafe_buffer_pointer() == place
    np.testing.assert_array_equal(copied, np.arange(1024) + 1)


def test_the_peak_is_the_process_s_own():
    peak = machine.peak_bytes()
    assert peak is not None and peak > 2**20


def test_a_child_s_failure_is_told_in_a_line(monkeypatch):
    failed = (1, "", "Traceback\nMemoryError: no room")
    silent = (0, '{"peak_bytes": null}', "")
    for told, message in ((failed, "status 1: MemoryError: no room"), (silent, "does not tell")):
        done = subprocess.CompletedProcess([], *told)
        monkeypatch.setattr(subprocess, "run", lambda *_, done=done, **__: done)
        with pytest.raises(ValueError, match=message):
            machine.ask_child("benchmarks.x", {"way": "smf"})
