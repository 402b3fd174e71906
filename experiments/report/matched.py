"""Forgetting at matched learning: what a sweep over the rate forgets where it learns enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from experiments.report.summary import Outcome, Setting, grouped, half_width


def least_forgetting(
    learned: Float[np.ndarray, "p"], forgotten: Float[np.ndarray, "p"], score: float
) -> float:
    """The least that a sweep forgets where it learns at least `score`; NaN where it does not.

    Points are joined by straight lines in order of the rate, none extrapolated (as in L25).
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
    """The least that a sweep, by rising rate, forgets at a matched score, along each seed's curve.

    Only rates that all seeds have count: a curve with a gap would be joined over what the others
    measured. Mean over the seeds and half the width of its 95 % interval, NaN for one seed; both
    NaN where a seed does not reach the score.
    """
    many = max(len(setting.outcomes) for setting in curve)
    common = [setting for setting in curve if len(setting.outcomes) == many]
    seeds = grouped((each for setting in common for each in setting.outcomes), "trial.seed")
    least = []
    for seed in seeds.values():
        xs, ys = (np.array([*map(axis, seed)]) for axis in (learned, forgotten))
        least.append(least_forgetting(xs, ys, score))
    return float(np.mean(least)), half_width(np.array(least))
