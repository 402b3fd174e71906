"""The bounds of the memory block's step, on made-up measurements."""

from __future__ import annotations

import pytest

from benchmarks.harness import Timing
from benchmarks.results import Measurement, Report
from benchmarks.step_checks import FOUR_MILLION, MILLION, check_step
from tests.benchmarks.tiny import report

GIB = 2**30
GOOD = {
    ("smf", MILLION): 0.060,
    ("smf", FOUR_MILLION): 0.100,
    ("smf, beside torch", MILLION): 0.055,
    ("smf, beside the dense ways", MILLION): 0.055,
    ("torch EmbeddingBag(sparse=True), SGD", MILLION): 0.080,
    ("dense gradient, masked", MILLION): 0.600,
    ("after the forward", MILLION): 0.006,
    ("after the forward, vector form", MILLION): 0.0055,
    ("after the forward, sorted form", MILLION): 0.018,
    ("after the forward", FOUR_MILLION): 0.019,
    ("after the forward, vector form", FOUR_MILLION): 0.078,
    ("after the forward, sorted form", FOUR_MILLION): 0.018,
}
BOUNDS = {
    f"smf_over_torch_at_{MILLION}": ("smf, beside torch", MILLION, 0.057),
    f"masked_over_smf_at_{MILLION}": ("dense gradient, masked", MILLION, 0.54),
    f"smf_growth_{MILLION}_to_{FOUR_MILLION}": ("smf", FOUR_MILLION, 0.109),
    f"after_at_{FOUR_MILLION}": ("after the forward", FOUR_MILLION, 0.0205),
    f"after_over_better_form_at_{MILLION}": ("after the forward", MILLION, 0.0064),
    f"after_over_better_form_at_{FOUR_MILLION}": (
        "after the forward, sorted form",
        FOUR_MILLION,
        0.016,
    ),
}


def checked(changes=(), peak: float = 1.34, state: int = 0) -> Report:
    told = report()
    for (name, slots), seconds in {**GOOD, **dict(changes)}.items():
        setting = {"table_slots": slots, "tokens": 512}
        told.add(Measurement("step", name, setting, Timing((seconds,))))
    setting = {"table_slots": MILLION, "tokens": 512}
    more = {"table_bytes": GIB}
    told.add(Measurement("step", "peak of smf", setting, peak_bytes=round(peak * GIB), more=more))
    held = {"trained_bytes": 2**19, "sgd_state_bytes": state, "dense_trained_bytes": GIB}
    told.add(Measurement("step", "trained, and optimizer state", setting, more=held))
    check_step(told)
    return told


def failed(told: Report) -> set[str]:
    return {check.name for check in told.checks if not check.holds}


def test_every_bound_is_checked_and_good_figures_hold():
    told = checked()
    assert {check.name for check in told.checks} == BOUNDS.keys() | {
        f"peak_above_table_at_{MILLION}",
        f"dense_over_smf_trained_at_{MILLION}",
    }
    assert not failed(told)
    assert not told.skipped


@pytest.mark.parametrize("name", BOUNDS)
def test_each_bound_fails_for_itself(name):
    contestant, slots, seconds = BOUNDS[name]
    assert name in failed(checked({(contestant, slots): seconds}))


def test_memory_has_bounds_too():
    assert failed(checked(peak=1.36)) == {f"peak_above_table_at_{MILLION}"}
    assert failed(checked(state=2**21)) == {f"dense_over_smf_trained_at_{MILLION}"}


def test_what_was_not_measured_is_skipped():
    told = report()
    check_step(told)
    assert told.checks == []
    assert len(told.skipped) == 4
