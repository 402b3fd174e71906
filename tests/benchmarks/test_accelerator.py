"""Suite ``accelerator``, tiny and on a CPU: nothing of it is left unrun until a GPU is there."""

from __future__ import annotations

import pytest

from benchmarks import accelerator
from benchmarks.accelerator import LEAST_MEMORY, READ, WITH_MEMORY, accelerator_shape
from benchmarks.costs import read_cost
from benchmarks.harness import Timing
from benchmarks.results import Measurement
from tests.benchmarks.test_step import PARTS
from tests.benchmarks.tiny import RATES, flags, report
from tests.tiny_sweep import quick_compilation


def test_the_shape_is_a_million_slots_of_a_thousand_in_bfloat16():
    shape = accelerator_shape()
    assert (shape.slots, shape.tokens, shape.width, shape.budget) == (2**20, 4096, 2048, 512)
    assert shape.table_bytes == 2**31
    memory = shape.memory
    assert (memory.heads, memory.reads, memory.key_width, memory.value_width) == (4, 32, 256, 1024)
    assert shape.dtype == shape.table_dtype == "bfloat16"


def test_everything_runs(monkeypatch):
    monkeypatch.setattr(accelerator, "busy_seconds", lambda call: 0.5)
    lines = []
    told = report(lines)
    with quick_compilation():
        accelerator.run(flags(), told)
    reads = [READ, "gradient of weights", "read, one gather", "lookup"]
    models = [WITH_MEMORY, LEAST_MEMORY]
    names = [each.name for each in told.measurements]
    assert names == [*reads, *PARTS, *models, "everything"]
    assert all(each.more["busy_seconds"] == 0.5 for each in told.measurements[:-1])
    assert told.measurements[-1].peak_bytes > 0
    assert "from float64" in lines[0]
    assert {check.name for check in told.checks} == {
        "accelerator_read_of_copy_bandwidth",
        "accelerator_memory_adds_to_step",
    }


def test_bounds_are_of_the_bytes_read_and_of_the_step_without_memory():
    shape, told = accelerator_shape(), report()
    least = read_cost(shape).bytes / RATES.copy_bytes
    for name, slots, seconds in (
        (READ, shape.slots, least / 0.9),
        (WITH_MEMORY, shape.slots, 1.08),
        (LEAST_MEMORY, 64, 1.0),
    ):
        told.add(Measurement("accelerator", name, {"table_slots": slots}, Timing((seconds,))))
    accelerator.check_accelerator(told, shape)
    values = {check.name: check.value for check in told.checks}
    assert values["accelerator_read_of_copy_bandwidth"] == pytest.approx(0.9)
    assert values["accelerator_memory_adds_to_step"] == pytest.approx(0.08)
    assert all(check.holds for check in told.checks)
