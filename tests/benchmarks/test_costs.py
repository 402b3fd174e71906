"""Bytes and operations, counted by hand."""

from __future__ import annotations

import dataclasses
import operator

import pytest

from benchmarks import costs
from benchmarks.costs import Cost
from benchmarks.machine import Rates
from tests.benchmarks.tiny import shape

# 16 tokens, 2 heads, 4 reads a head, 8 keys per half of width 4, rows of 8, 64 slots.
READS = 16 * 2 * 4


def test_a_read_moves_each_row_once_however_often_it_is_read():
    found = costs.read_cost(shape())
    assert found.bytes == 64 * 8 * 4 + READS * (4 + 4) + 16 * 8 * 4
    assert found.operations == 2 * READS * 8
    many = costs.read_cost(shape(keys=100))
    assert many.bytes - found.bytes == (READS - 64) * 8 * 4


def test_narrow_tables_and_activations_move_fewer_bytes():
    found = costs.read_cost(shape(keys=100, dtype="bfloat16", table_dtype="bfloat16"))
    assert found.bytes == READS * (8 * 2 + 4 + 2) + 16 * 8 * 2


def test_a_lookup_multiplies_every_key_with_every_query():
    found = costs.lookup_cost(shape())
    assert found.operations == 2 * (16 * 2 * 2 * 8) * 4
    assert found.bytes == 4 * (2 * 8 * 8 + 16 * 2 * 8) + READS * 8


def test_row_gradient_and_write_are_of_the_selected_rows_only():
    small, large = shape(keys=8), shape(keys=64)
    assert costs.row_gradient_cost(small) == costs.row_gradient_cost(large)
    assert costs.write_cost(small) == Cost(16 * 8 * 4 * 3, 2.0 * 16 * 8)
    assert costs.after_cost(small) == costs.after_cost(large)


def test_a_step_is_its_parts():
    found = costs.forward_cost(shape()) + costs.after_cost(shape())
    assert costs.step_cost(shape()) == found
    with pytest.raises(TypeError):
        operator.add(found, (1,))


def test_the_dense_way_grows_with_the_table_and_with_its_states():
    growth = [costs.dense_step_cost(shape(keys), 0).bytes for keys in (50, 100)]
    rows = 100**2 - 50**2
    # The keys of the lookup grow too.
    assert growth[1] - growth[0] == rows * 8 * 4 * 4 + 2 * 50 * 8 * 4
    with_states = costs.dense_step_cost(shape(50), 2).bytes
    assert with_states - growth[0] == 2 * 2 * 2500 * 8 * 4


def test_the_floor_is_the_slower_of_moving_and_computing():
    rates = Rates(copy_bytes=100, operations=1000, dtype="float32")
    assert Cost(200, 1000).floor_seconds(rates) == 2
    assert Cost(200, 9000).floor_seconds(rates) == 9


@pytest.mark.parametrize(("budget", "selected"), [(16, 16), (100, 64)])
def test_no_more_rows_are_selected_than_there_are(budget, selected):
    assert shape(budget=budget).selected == selected
    few = dataclasses.replace(shape(keys=100, budget=9000))
    assert few.selected == READS
