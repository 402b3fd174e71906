"""Metrics of a stream from the accuracy on each task after each task; docs/metrics.md has them.

They read a matrix ``R`` of ``(T + 1, T)``: ``R[i, j]`` is the accuracy on task ``j + 1`` after task
``i``, row 0 that of the base, NaN where nothing was measured. All are shares; NaN where a stream is
too short for them, or what they need is not there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Matrix = Float[np.ndarray, "rows tasks"]


def accuracy_matrix(
    retention: Sequence[Sequence[float]], ahead: Sequence[float], before: Sequence[float]
) -> Matrix:
    """``R`` of a trial, from its columns in the order of the tasks.

    ``retention`` are the accuracies on the tasks so far, ``ahead`` is that on the next task and
    ``before`` that of the base on each task.
    """
    tasks = len(retention)
    found = np.full((tasks + 1, tasks), np.nan)
    found[0, : len(before)] = before
    for task, accuracies in enumerate(retention):
        found[task + 1, : len(accuracies)] = accuracies
        if task + 1 < tasks:
            found[task + 1, task + 1] = ahead[task]
    return found


def backward_transfer(accuracy: Matrix) -> float:
    """``1/(T-1) Σ_{j<T} (R[T,j] - R[j,j])``: how earlier tasks fared later (1706.08840)."""
    after = np.diagonal(accuracy[1:])
    return _mean(accuracy[-1, :-1] - after[:-1])


def forward_transfer(accuracy: Matrix) -> float:
    """``1/(T-1) Σ_{j>1} (R[j-1,j] - R[0,j])``: what earlier tasks gave a later one (1706.08840)."""
    ahead = np.diagonal(accuracy[1:], 1)
    return _mean(ahead - accuracy[0, 1:])


def mean_forgetting(accuracy: Matrix) -> float:
    """``1/(T-1) Σ_{j<T} (max_{j≤i<T} R[i,j] - R[T,j])``: below the best it was (1801.10112)."""
    tasks = accuracy.shape[1]
    best = [np.max(accuracy[task + 1 : tasks, task]) for task in range(tasks - 1)]
    return _mean(np.array(best) - accuracy[-1, :-1])


def first_kept(accuracy: Matrix, share: float) -> float:
    """``Σ_{j≤m} R[T,j] / Σ_{j≤m} R[j,j]`` of the first ``m = max(1, T · share)`` tasks.

    What is left at the end of what a stream began with, as a share of what was learned of it.
    """
    tasks = accuracy.shape[1]
    first = max(1, int(tasks * share + 1e-9))
    learned = float(np.sum(np.diagonal(accuracy[1:])[:first]))
    if tasks < 2 or not learned:  # nothing came after it, or nothing was learned
        return float("nan")
    return float(np.sum(accuracy[-1, :first])) / learned


def stream_average(accuracy: Matrix) -> float:
    """``1/T Σ_i 1/i Σ_{j≤i} R[i,j]``: accuracy on all tasks so far, mean over the whole stream."""
    return _mean(np.array([np.mean(row[: i + 1]) for i, row in enumerate(accuracy[1:])]))


def gain(accuracy: Matrix) -> float:
    """``1/T Σ_j (R[T,j] - R[0,j])``: what is known of the stream at its end and was not before."""
    return _mean(accuracy[-1] - accuracy[0])


def _mean(values: Float[np.ndarray, " n"]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
