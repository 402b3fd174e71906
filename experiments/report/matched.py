"""Forgetting at matched learning: what a sweep over the rate forgets where it learns enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from experiments.report.summary import Outcome, Setting, half_width


def least_forgetting(
    learned: Float[np.ndarray, "p"], forgotten: Float[np.ndarray, "p"], score: float
) -> float:
    """The least that a sweep forgets where it learns at least `score`.

    The points are joined by straight lines, in order of the rate, and nothing is extrapolated
    (L25 and method comparisons at a matched target score).

    Args:
      learned: what each point of the sweep learned (p).
      forgotten: what it forgot (p).
      score: the score that must be reached.

    Returns:
      The least forgetting, or NaN where the sweep does not reach the score.
    """
    candidates = list(forgotten[learned >= score])
    for left in range(len(learned) - 1):
        low, high = learned[left], learned[left + 1]
        if min(low, high) < score < max(low, high):
            share = (score - low) / (high - low)
            candidates.append(forgotten[left] + share * (forgotten[left + 1] - forgotten[left]))
    return float(min(candidates, default=np.nan))


def matched(
    curve: Sequence[Setting],
    learned: Callable[[Outcome], float],
    forgotten: Callable[[Outcome], float],
    score: float,
) -> tuple[float, float]:
    """The least that a sweep forgets at a matched score, along the curve of each seed.

    Args:
      curve: settings that differ in the learning rate alone, by rising rate.
      learned: what a trial has learned.
      forgotten: what it has forgotten.
      score: the score that must be reached.

    Returns:
      Mean over the seeds and half the width of its 95 % interval, NaN for one seed; both NaN where
      a seed does not reach the score.
    """
    seeds: dict[int, list[Outcome]] = {}
    for setting in curve:
        for outcome in setting.outcomes:
            seeds.setdefault(outcome.trial.seed, []).append(outcome)
    least = np.array(
        [
            least_forgetting(
                np.array([learned(outcome) for outcome in trials]),
                np.array([forgotten(outcome) for outcome in trials]),
                score,
            )
            for trials in seeds.values()
        ]
    )
    return float(least.mean()), half_width(least)
