"""What must hold of the memory block's step."""

from __future__ import annotations

from benchmarks.parts import FORMS
from benchmarks.results import Report
from benchmarks.suite import check_ratio, ratio

MILLION = 2**20
FOUR_MILLION = 2**22
GIB = 2**30


def check_step(report: Report, million: int = MILLION, four_million: int = FOUR_MILLION) -> None:
    """Checks the ratios of one run.

    Args:
      report: with the measurements of the suite.
      million: table slots at which most bounds stand.
      four_million: the larger table of the growth.
    """

    def median(name: str, slots: int) -> float | None:
        return report.median("step", name, table_slots=slots)

    torch = ratio(
        median("smf, beside torch", million),
        median("torch EmbeddingBag(sparse=True), SGD", million),
    )
    check_ratio(report, f"smf_over_torch_at_{million}", torch, "at most", 0.7)
    masked = ratio(
        median("dense gradient, masked", million), median("smf, beside the dense ways", million)
    )
    check_ratio(report, f"masked_over_smf_at_{million}", masked, "at least", 10)
    growth = ratio(median("smf", four_million), median("smf", million))
    check_ratio(report, f"smf_growth_{million}_to_{four_million}", growth, "at most", 1.8)
    after = median("after the forward", four_million)
    milliseconds = None if after is None else 1e3 * after
    check_ratio(report, f"after_at_{four_million}", milliseconds, "at most", 20, "ms")
    _check_forms(report)
    for each in report.measurements:
        if each.name == "peak of smf" and each.peak_bytes is not None:
            slots = each.setting["table_slots"]
            above = (each.peak_bytes - each.more["table_bytes"]) / GIB
            check_ratio(report, f"peak_above_table_at_{slots}", above, "at most", 0.35, "GiB")
        if each.name == "trained, and optimizer state" and each.setting["table_slots"] == million:
            held = each.more["trained_bytes"] + each.more["sgd_state_bytes"]
            value = each.more["dense_trained_bytes"] / held
            check_ratio(report, f"dense_over_smf_trained_at_{million}", value, "at least", 500)


def _check_forms(report: Report) -> None:
    """At every number of table slots, against the faster of the forms that were timed there."""
    slots = [m.setting["table_slots"] for m in report.measurements if m.name == "after the forward"]
    for count in slots:
        forms = [
            each.timing.median
            for each in report.measurements
            if each.name in {f"after the forward, {form} form" for form in FORMS}
            and each.setting["table_slots"] == count
            and each.timing is not None
        ]
        after = report.median("step", "after the forward", table_slots=count)
        if forms and after is not None:
            value = after / min(forms)
            report.check(f"after_over_better_form_at_{count}", value, "at most", 1.15)
