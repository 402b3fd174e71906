"""What is told of the machine, and its rates."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np

from benchmarks import machine
from benchmarks.machine import (
    compile_copy,
    describe_machine,
    free_bytes,
    machine_line,
    measure_rates,
    peak_bytes,
    usable_cores,
)
from tests.benchmarks.tiny import MACHINE


def test_the_machine_is_told_as_json_with_the_versions_that_run():
    told = describe_machine()
    assert json.loads(json.dumps(told)) == told
    assert told.keys() == MACHINE.keys()
    assert {"jax", "jaxlib", "flax", "optax", "numpy"} <= told["versions"].keys()
    assert told["cores"] == usable_cores() >= 1


def test_one_line_names_the_accelerator_before_the_processor():
    assert machine_line(MACHINE) == "2 cores of a processor, Python 3.11.7, jax 0.10.2"
    other = MACHINE | {"platform": "gpu", "device_kind": "H200"}
    assert machine_line(other).startswith("1 H200, 2 cores")


def test_one_line_says_where_kernels_are_missing():
    slower = machine_line(MACHINE | {"cpu_kernels": False})
    assert slower.startswith("2 cores of a processor, without the kernels for CPUs, Python")
    assert "kernels" not in machine_line(MACHINE | {"cpu_kernels": False, "platform": "gpu"})


def test_rates_are_of_bytes_read_and_written_and_of_two_operations_a_product(monkeypatch):
    class Fixed:
        samples = (4.0, 2.0)

    monkeypatch.setattr(machine, "take_turns", lambda *_, **__: {"copy": Fixed, "multiply": Fixed})
    rates = measure_rates(copy_bytes=4096, matrix_width=16)
    assert rates == (2 * 4096 / 2.0, 2 * 16**3 / 2.0, "float32")


def test_rates_can_be_measured():
    rates = measure_rates(2, copy_bytes=4096, matrix_width=16, dtype=jnp.bfloat16)
    assert rates.copy_bytes > 0
    assert rates.operations > 0
    assert rates.dtype == "bfloat16"


def test_a_copy_goes_into_the_memory_of_its_target():
    source, target = jnp.arange(1024.0), jnp.zeros(1024)
    place = target.unsafe_buffer_pointer()
    copied = compile_copy(source)(target, source)
    assert copied.unsafe_buffer_pointer() == place
    np.testing.assert_array_equal(copied, np.arange(1024) + 1)


def test_free_and_peak_memory_are_those_of_the_process(monkeypatch):
    assert free_bytes() > 2**20
    assert peak_bytes() > 2**20
    monkeypatch.setattr(machine, "_meminfo", lambda: {"MemAvailable": 300})
    monkeypatch.setattr(machine, "_group_free", lambda: 200)
    assert free_bytes() == 200
    monkeypatch.setattr(machine, "_group_free", lambda: None)
    assert free_bytes() == 300
    monkeypatch.setattr(machine, "_meminfo", dict)
    assert free_bytes() is None
