"""Measurements, bounds and reports as JSON and as lines."""

from __future__ import annotations

import json
import math

import pytest

from benchmarks import report as reports
from benchmarks.costs import Cost
from benchmarks.harness import Program
from benchmarks.report import BOUNDS, Entry, Suite, figures
from tests.benchmarks.tiny import RATES, report

SETTING, SECONDS = {"table_slots": 64, "tokens": 16}, (0.01, 0.02, 0.04)


def program_of(*sizes) -> Program:
    names = ("arguments", "outputs", "aliased", "temporaries", "total")
    return Program(print, 1.5, dict(zip(names, sizes, strict=True)))


def test_a_measurement_tells_its_share_of_what_the_machine_can_do():
    told = report()
    program = program_of(1, 2, 3, 4, 4)
    told.add(Entry("step", "smf", SETTING, Cost(2e6, 5e6), program), SECONDS)
    (row,) = told.measurements
    spread = {"median": 0.02, "quartiles": [0.015, 0.03], "least": 0.01, "samples": 3}
    assert row["seconds"] == spread
    assert row["floor_seconds"] == 2e-3
    assert row["share_of_copy_bandwidth"] == pytest.approx(0.1)
    assert row["share_of_matmul_rate"] == pytest.approx(0.025)
    assert row["compile_seconds"] == 1.5
    assert row["memory"] == program.memory


def test_a_report_says_what_it_keeps_and_gives_json():
    lines = []
    told = report(lines)
    more = {"peak_bytes": 2**20, "collectives": {"all-reduce": 2}}
    told.add(Entry("step", "smf", SETTING, Cost(1, 1)), SECONDS, **more)
    told.skip("torch", "it is not installed")
    assert "20 ms (15 to 30)" in lines[0]
    assert "peak 1.0 MiB" in lines[0]
    assert "'all-reduce': 2" in lines[0]
    assert lines[1] == "  skipped torch: it is not installed"
    result = json.loads(json.dumps(told.to_dict()))
    parts = {"format", "flags", "machine", "rates", "measurements", "checks", "skipped"}
    assert set(result) == parts
    assert result["rates"] == RATES._asdict()


@pytest.mark.parametrize("relation", ["at most", "at least"])
@pytest.mark.parametrize("value", [0.69, 0.7, 0.71, math.nan])
def test_a_figure_is_within_its_bound_up_to_it_and_never_for_nan(value, relation):
    lines, holds = [], value == 0.7 or value == {"at most": 0.69, "at least": 0.71}[relation]
    told = report(lines)
    told.add(Entry("step", "smf", SETTING), share=value)
    bound = {"check": "x_{tokens}", "suite": "step", "name": "smf", "figure": "share"}
    told.check("step", [{**bound, relation: 0.7}, {**bound, "suite": "read", "at most": 0}])
    (check,) = told.checks
    assert (check["name"], check["relation"], check["bound"]) == ("x_16", relation, 0.7)
    assert check["holds"] is holds
    assert ("DOES NOT HOLD" in lines[-1]) is not holds


def test_a_bound_on_what_was_not_measured_is_skipped():
    told = report()
    told.add(Entry("step", "smf", SETTING), SECONDS)
    bound = {"suite": "step", "name": "smf", "over": ["torch"], "at most": 1}
    told.check("step", [{**bound, "check": "a"}, {**bound, "check": "b_{tokens}"}])
    assert told.checks == []
    assert [each["what"] for each in told.skipped] == ["check a"]


def test_figures_are_ratios_at_one_setting_or_of_two():
    small, large = ({"table_slots": slots, "tokens": 512} for slots in (2**20, 2**22))
    model, least = ({"model": "1.3B", "table_slots": slots} for slots in (2**20, 64))
    vector, sorted_ = (f"after the forward, {form} form" for form in ("vector", "sorted"))
    timed = [
        *(("smf", small, 2.0), ("smf", large, 3.0), ("after the forward", large, 0.01)),
        *((vector, large, 0.02), (sorted_, large, 0.008), (sorted_, small, 1e-9)),
        *(("smf step", model, 1.5), ("smf step, least memory", least, 1.0)),
    ]
    rows = [{"name": name, "setting": at, "seconds": {"median": s}} for name, at, s in timed]
    found = {}
    for bound in BOUNDS:
        if bound["suite"] in ("step", "accelerator") and "figure" not in bound:
            found |= figures(rows, bound)
    assert found == {
        "smf_growth_1048576_to_4194304": 1.5,
        "after_over_better_form_at_4194304": 1.25,
        "after_at_4194304": 10.0,
        "accelerator_memory_adds_to_step": 0.5,
    }


@pytest.mark.parametrize(("added", "needed"), [(0, 180), (60, 180), (75, 185)])
def test_a_program_needs_its_arguments_its_results_and_temporaries(monkeypatch, added, needed):
    monkeypatch.setattr(reports, "_SHARE", 1.0)
    entry, suite = Entry("step", "smf", SETTING, None, program_of(100, 90, 80, 70, 180)), Suite()
    # Calls run one after another: the largest temporaries of all are what has to be free.
    small = entry._replace(name="small", program=program_of(1, 1, 1, added, 1 + added))
    suite.add(small, lambda _: None)
    with pytest.raises(ValueError, match="a case small .*a name of its own"):
        suite.add(small, lambda _: None)
    for free, enough in ((needed, True), (needed - 1, False), (None, True)):
        told = report()
        monkeypatch.setattr(reports, "free_bytes", lambda free=free: free)
        assert suite.fits(told, entry) is enough
        assert len(told.skipped) == (not enough)
