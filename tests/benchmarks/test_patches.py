"""Choosing among patches is timed, and every bit is looked at."""

from __future__ import annotations

import json

import pytest

from benchmarks.patches import PatchesConfig, main


@pytest.mark.parametrize("on_host", [False, True])
def test_what_is_printed_is_json_with_times_and_bits(on_host, capsys):
    config = PatchesConfig(patches=3, rows=5, table_slots=40, width=4, on_host=on_host)
    assert main(config) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.items() >= config.values().items()
    assert told["chosen_to_the_bit"] and told["base_came_back"]
    assert 0 < told["median_ms"] <= told["p95_ms"] <= told["most_ms"]


def test_more_rows_than_there_are_slots_are_refused():
    with pytest.raises(ValueError, match="--rows=9: expected at most --table_slots"):
        PatchesConfig(rows=9, table_slots=8)
