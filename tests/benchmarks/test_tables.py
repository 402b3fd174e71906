"""Markdown that can be pasted."""

from __future__ import annotations

from benchmarks.costs import Cost
from benchmarks.harness import Timing
from benchmarks.results import Measurement
from benchmarks.tables import check_table, detail_table, growth_table, markdown
from tests.benchmarks.tiny import RATES, report


def rows():
    found = []
    for slots, seconds in ((256, 0.004), (64, 0.002)):
        for name in ("smf", "torch"):
            setting = {"table_slots": slots, "tokens": 16}
            timing = Timing((seconds * (1 + (name == "torch")),))
            found.append(Measurement("step", name, setting, timing, Cost(1e3, 1e3)))
    found.append(Measurement("step", "peak", {"table_slots": 64}, peak_bytes=2**20))
    return [each.to_dict(RATES) for each in found]


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]


def test_growth_has_a_line_a_contestant_and_a_column_a_size():
    header, rule, *body = cells(growth_table(rows()))
    assert header == ["ms a call, at table slots", "64", "256"]
    assert rule == ["---", "---:", "---:"]
    assert body == [["smf", "2", "4"], ["torch", "4", "8"]]


def test_there_is_no_growth_of_one_size():
    assert growth_table([row for row in rows() if row["setting"]["table_slots"] == 64]) == ""


def test_models_are_told_apart():
    of_models = [
        Measurement("train", "smf", {"model": model, "table_slots": slots}, Timing((slots / 1e3,)))
        for model in ("small", "large")
        for slots in (1, 2)
    ]
    body = cells(growth_table([each.to_dict(None) for each in of_models]))[2:]
    assert body == [["smf, small", "1", "2"], ["smf, large", "1", "2"]]


def test_details_leave_out_columns_that_nobody_fills():
    header, _, *body = cells(detail_table(rows()))
    assert header == ["", "setting", "ms", "quartiles", "floor", "of copy", "of matmul", "peak"]
    assert all(len(line) == len(header) for line in body)
    assert body[0][:4] == ["smf", "256 slots, 16 tokens", "4", "4 to 4"]
    assert body[-1] == ["peak", "64 slots", "", "", "", "", "", "1 MiB"]


def test_checks_stand_with_their_bounds():
    told = report()
    told.check("a", 0.5, "at most", 0.7)
    told.check("b", 30, "at most", 20, "ms")
    body = cells(check_table(told.to_dict()["checks"]))[2:]
    assert body == [["a", "0.5", "at most 0.7", "yes"], ["b", "30 ms", "at most 20", "**no**"]]


def test_a_whole_result_names_the_machine_and_what_was_left_out():
    told = report()
    told.add(Measurement("step", "smf", {"table_slots": 64}, Timing((0.002,)), Cost(1e3, 1e3)))
    told.check("a", 0.5, "at most", 0.7)
    told.skip("torch", "it is not installed")
    text = markdown(told.to_dict())
    assert text.startswith("2 cores of a processor, Python 3.11.7, jax 0.10.2. Copies at 1 GB/s")
    assert "### step" in text
    assert "### Must hold" in text
    assert "* left out torch: it is not installed" in text
