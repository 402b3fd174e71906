"""Metrics of a stream against their definitions, summed up one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from experiments.report.transfer import (
    accuracy_matrix,
    backward_transfer,
    first_kept,
    forward_transfer,
    gain,
    mean_forgetting,
    stream_average,
)

TASKS = 4
RNG = np.random.default_rng(0)
# As in the papers, of tasks 1 to T, after tasks 0 to T.
R = {(i, j): float(RNG.random()) for i in range(TASKS + 1) for j in range(1, TASKS + 1)}


@pytest.fixture(scope="module")
def accuracy():
    return accuracy_matrix(
        retention=[[R[i, j] for j in range(1, i + 1)] for i in range(1, TASKS + 1)],
        ahead=[R[i, i + 1] for i in range(1, TASKS)] + [math.nan],
        before=[R[0, j] for j in range(1, TASKS + 1)],
    )


def test_the_matrix_has_what_was_measured_where_it_belongs(accuracy):
    measured = {(i, j) for i, j in R if i == 0 or j <= i + 1}
    for (i, j), value in R.items():
        found = accuracy[i, j - 1]
        assert found == value if (i, j) in measured else math.isnan(found)


def test_each_metric_is_its_sum(accuracy):
    last, earlier = TASKS, range(1, TASKS)
    backward = sum(R[last, j] - R[j, j] for j in earlier) / (TASKS - 1)
    assert backward_transfer(accuracy) == pytest.approx(backward)
    forward = sum(R[j - 1, j] - R[0, j] for j in range(2, TASKS + 1)) / (TASKS - 1)
    assert forward_transfer(accuracy) == pytest.approx(forward)
    lost = sum(max(R[i, j] for i in range(j, last)) - R[last, j] for j in earlier) / (TASKS - 1)
    assert mean_forgetting(accuracy) == pytest.approx(lost)
    average = sum(sum(R[i, j] for j in range(1, i + 1)) / i for i in range(1, last + 1)) / TASKS
    assert stream_average(accuracy) == pytest.approx(average)
    gained = sum(R[last, j] - R[0, j] for j in range(1, last + 1)) / TASKS
    assert gain(accuracy) == pytest.approx(gained)


def test_forgetting_is_from_the_best_and_backward_transfer_from_the_first():
    accuracy = accuracy_matrix([[0.5], [0.9, 0.5], [0.6, 0.5, 0.5]], [0, 0, 0], [0, 0, 0])
    assert backward_transfer(accuracy) == pytest.approx((0.1 + 0) / 2)
    assert mean_forgetting(accuracy) == pytest.approx((0.3 + 0) / 2)


def test_one_task_has_no_other_and_rows_of_before_have_no_base():
    one = accuracy_matrix([[0.75]], [math.nan], [0.25])
    for metric in (backward_transfer, forward_transfer, mean_forgetting):
        assert math.isnan(metric(one))
    assert (stream_average(one), gain(one)) == (0.75, 0.5)
    old = accuracy_matrix([[0.5], [0.25, 0.5]], [math.nan] * 2, [math.nan] * 2)
    assert math.isnan(forward_transfer(old)) and math.isnan(gain(old))
    assert backward_transfer(old) == -0.25


def test_of_the_first_tasks_a_share_of_what_was_learned_is_left(accuracy):
    for share, first in ((0.1, 1), (0.5, 2), (0.75, 3), (1.0, 4)):
        left = sum(R[TASKS, j] for j in range(1, first + 1))
        learned = sum(R[j, j] for j in range(1, first + 1))
        assert first_kept(accuracy, share) == pytest.approx(left / learned)
    ten = accuracy_matrix([[1.0] * i for i in range(1, 11)], [0.0] * 10, [0.0] * 10)
    ten[-1, 1:] = 0.0  # but the first task of ten
    assert (first_kept(ten, 0.1), first_kept(ten, 0.2)) == (1.0, 0.5)
    assert math.isnan(first_kept(accuracy_matrix([[1.0]], [math.nan], [0.0]), 0.1))
    none = accuracy_matrix([[0.0], [0.0, 1.0]], [0.0] * 2, [0.0] * 2)
    assert math.isnan(first_kept(none, 0.1))
