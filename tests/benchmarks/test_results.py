"""Measurements, checks and reports as JSON and as lines."""

from __future__ import annotations

import json
import math

import pytest

from benchmarks.costs import Cost
from benchmarks.harness import Program, ProgramMemory, Timing
from benchmarks.results import (
    Check,
    Measurement,
    in_bytes,
    in_milliseconds,
    setting_text,
)
from tests.benchmarks.tiny import RATES, report

SETTING = {"table_slots": 64, "tokens": 16}


def measured(name="smf", seconds=(0.01, 0.02, 0.04), **fields) -> Measurement:
    return Measurement("step", name, SETTING, Timing(tuple(seconds)), **fields)


def test_a_measurement_tells_its_share_of_what_the_machine_can_do():
    row = measured(cost=Cost(2e6, 5e6)).to_dict(RATES)
    assert row["seconds"] == {
        "median": 0.02,
        "quartiles": [0.015, 0.03],
        "least": 0.01,
        "samples": 3,
    }
    assert row["floor_seconds"] == 2e-3
    assert row["share_of_copy_bandwidth"] == pytest.approx(0.1)
    assert row["share_of_matmul_rate"] == pytest.approx(0.025)


def test_what_is_not_known_is_not_told():
    row = Measurement("tpu", "read", {"layout": "one chip"}, more={"flops": 3.0}).to_dict(None)
    assert row == {
        "suite": "tpu",
        "name": "read",
        "setting": {"layout": "one chip"},
        "flops": 3.0,
    }


def test_a_program_adds_its_memory_and_compile_time():
    program = Program(print, 1.5, ProgramMemory(1, 2, 3, 4), None)
    row = measured().with_program(program).to_dict(RATES)
    assert row["compile_seconds"] == 1.5
    told = {"arguments": 1, "outputs": 2, "aliased": 3, "temporaries": 4, "total": 4}
    assert row["memory"] == told
    assert row["seconds"]["median"] == 0.02


@pytest.mark.parametrize(
    ("value", "relation", "holds"),
    [
        (0.69, "at most", True),
        (0.7, "at most", True),
        (0.71, "at most", False),
        (0.7, "at least", True),
        (0.69, "at least", False),
        (math.nan, "at most", False),
        (math.nan, "at least", False),
    ],
)
def test_a_check_holds_up_to_its_bound_and_never_for_nan(value, relation, holds):
    check = Check("ratio", value, relation, 0.7)
    assert check.holds is holds
    assert check.to_dict()["holds"] is holds
    assert ("DOES NOT HOLD" in str(check)) is not holds


def test_a_report_says_what_it_keeps_and_gives_json():
    lines = []
    told = report(lines)
    told.add(measured(cost=Cost(1, 1), peak_bytes=2**20, more={"collectives": {"all-reduce": 2}}))
    told.check("ratio", 2, "at most", 1.5, "ms")
    told.skip("torch", "it is not installed")
    assert len(lines) == 3
    assert "20 ms (15 to 30)" in lines[0]
    assert "peak 1 MiB" in lines[0]
    assert "collectives 2 all-reduce" in lines[0]
    assert lines[1] == "  ratio: 2 ms, at most 1.5: DOES NOT HOLD"
    assert lines[2] == "  skipped torch: it is not installed"
    result = json.loads(json.dumps(told.to_dict()))
    assert set(result) == {
        "format",
        "flags",
        "machine",
        "rates",
        "measurements",
        "checks",
        "skipped",
    }
    assert result["checks"] == [
        {
            "name": "ratio",
            "value": 2.0,
            "relation": "at most",
            "bound": 1.5,
            "unit": "ms",
            "holds": False,
        }
    ]


def test_a_median_is_found_by_suite_name_and_setting():
    told = report()
    told.add(measured())
    told.add(Measurement("step", "smf", {"table_slots": 256}, Timing((0.5,))))
    told.add(Measurement("step", "peak", {"table_slots": 256}, peak_bytes=1))
    assert told.median("step", "smf", table_slots=256) == 0.5
    assert told.median("step", "smf") == 0.02
    assert told.median("step", "smf", table_slots=1024) is None
    assert told.median("read", "smf") is None
    assert told.median("step", "peak") is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0123456, "12.3"), (0.2, "200"), (1.5, "1,500"), (1.2e-5, "0.012")]
)
def test_milliseconds_have_three_digits(seconds, text):
    assert in_milliseconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**20, "1 MiB"), (3 * 2**30, "3 GiB")],
)
def test_bytes_are_told_in_the_largest_unit(count, text):
    assert in_bytes(count) == text


def test_settings_read_as_words():
    told = setting_text({"model": "9M decoder", "table_slots": 16384, "tokens": 512})
    assert told == "9M decoder, 16,384 slots, 512 tokens"
