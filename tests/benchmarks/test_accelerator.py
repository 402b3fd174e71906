"""Suite ``accelerator``, tiny and on a CPU: nothing of it is left unrun until a GPU is there."""

from __future__ import annotations

from benchmarks import accelerator
from benchmarks import report as reports
from benchmarks.accelerator import LEAST_MEMORY, WITH_MEMORY, accelerator_shape
from tests.benchmarks.tiny import flags, names_of, report
from tests.tiny_sweep import quick_compilation


def test_everything_runs_with_bounds_on_the_read_and_on_what_the_memory_adds(monkeypatch):
    monkeypatch.setattr(reports, "busy_seconds", lambda call: 0.5)
    told = report()
    with quick_compilation():
        accelerator.run(flags(), told)
    names = names_of(told)
    assert names[:4] == ["read", "gradient of weights", "read, one gather", "lookup"]
    assert "after the forward" in names
    assert names[-3:] == [WITH_MEMORY, LEAST_MEMORY, "everything"]
    assert all(row["busy_seconds"] == 0.5 for row in told.measurements[:-1])
    assert told.measurements[-1]["peak_bytes"] > 0
    told.check("accelerator")
    checked = [check["name"] for check in told.checks]
    assert checked == ["accelerator_read_of_copy_bandwidth", "accelerator_memory_adds_to_step"]
    shape = accelerator_shape()
    assert (shape.slots, shape.tokens, shape.width, shape.budget) == (2**20, 4096, 2048, 512)
    assert shape.table_bytes == 2**31
