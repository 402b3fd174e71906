"""Suite ``sweep`` at tiny sizes."""

from __future__ import annotations

from benchmarks import sweep
from smf_jax.sparse.selection import budget_size
from tests.benchmarks.tiny import flags, report
from tests.tiny_sweep import quick_compilation


def test_the_budgets_are_eight_of_one_static_size():
    assert len(set(sweep.BUDGETS)) == 8
    assert len({budget_size(budget) for budget in sweep.BUDGETS}) == 1


def test_one_group_compiles_once_and_each_alone_for_itself():
    told = report()
    with quick_compilation():
        sweep.run(flags(table_slots="64"), told, budgets=(8, 16), steps=2)
    alone, together = told.measurements
    assert (alone.name, together.name) == ("each budget alone", "all budgets in one group")
    assert alone.more["programs"] >= 2 * together.more["programs"] > 0
    assert alone.compile_seconds > together.compile_seconds
    checks = {check.name: check for check in told.checks}
    assert checks["sweep_step_traces"].value == 1
    assert checks["sweep_programs_after_first_budget"].value == 0
    assert checks["sweep_over_alone_less_compiles"].bound == 1.05
    bound = alone.timing.median - alone.compile_seconds / 2
    value = checks["sweep_over_alone_less_compiles"].value
    assert abs(value - together.timing.median / bound) < 1e-9
