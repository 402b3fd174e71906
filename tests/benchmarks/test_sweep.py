"""Suite ``sweep`` at tiny sizes."""

from __future__ import annotations

from benchmarks import sweep
from smf_jax.sparse.selection import budget_size
from tests.benchmarks.tiny import flags, names_of, report


def test_one_group_compiles_once_and_each_alone_for_itself():
    assert len({budget_size(budget) for budget in sweep.BUDGETS}) == 1
    told = report()
    sweep.run(flags(table_slots="64"), told, budgets=(8, 16), steps=2)
    assert names_of(told) == ["each budget alone", "all budgets in one group"]
    alone, together = told.measurements
    assert alone["programs"] >= 2 * together["programs"] > 0
    assert alone["compile_seconds"] > together["compile_seconds"]
    told.check("sweep")
    values = {check["name"]: check["value"] for check in told.checks}
    assert values["sweep_step_traces"] == 1
    assert values["sweep_programs_after_first_budget"] == 0
    bound = alone["seconds"]["median"] - alone["compile_seconds"] / 2
    expected = together["seconds"]["median"] / bound
    assert abs(values["sweep_over_alone_less_compiles"] - expected) < 1e-9
