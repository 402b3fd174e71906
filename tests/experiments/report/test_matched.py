"""Forgetting at matched learning, against a dense walk along the curves."""

from __future__ import annotations

import math
from operator import attrgetter

import numpy as np
import pytest

from experiments.report.matched import least_forgetting, matched
from experiments.report.summary import average, summarise, sweeps


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (0.2, 0.0),  # the first point learned more, and forgot nothing
        (0.5, 0.05),  # halfway between the first two
        (0.8, 0.15),
        (0.9, math.nan),  # no point gets there
    ],
)
def test_forgetting_at_a_score_is_interpolated_and_never_extrapolated(score, expected):
    learned, forgotten = np.array([0.3, 0.7, 0.85]), np.array([0.0, 0.1, 0.175])
    found = least_forgetting(learned, forgotten, score)
    assert found == pytest.approx(expected, nan_ok=True)


def test_forgetting_at_a_score_agrees_with_a_dense_walk_along_the_sweep():
    random = np.random.default_rng(0)
    for _ in range(20):
        learned, forgotten = random.random((2, 4))  # strong rates may learn less again
        walk = np.linspace(0, 3, 30_001)
        xs, ys = (np.interp(walk, range(4), values) for values in (learned, forgotten))
        score = random.random()
        reached = ys[xs >= score]
        expected = reached.min() if len(reached) else np.nan
        found = least_forgetting(learned, forgotten, score)
        assert found == pytest.approx(expected, abs=1e-4, nan_ok=True)


def curve_of(make_rows, seeds):
    """A sweep of two rates; the stronger of seed s forgets what the mapping says."""
    rows = []
    for seed, known in seeds.items():
        rows += make_rows("full", learning_rate=1e-5, learned=0.2, known=1.0, seed=seed)
        rows += make_rows("full", learning_rate=1e-4, learned=0.8, known=known, seed=seed)
    (curve,) = sweeps(average(summarise(rows))).values()
    return curve


def test_each_seed_has_its_own_curve(make_rows):
    curve = curve_of(make_rows, {0: 0.4, 1: 0.6, 2: 0.8})
    mean, interval = matched(
        curve, attrgetter("learned_unseen"), attrgetter("known_forgotten"), 0.5
    )
    # Halfway between the rates: 0.3, 0.2 and 0.1; t(0.975, 2) = 4.3027, s = 0.1.
    assert mean == pytest.approx(0.2)
    assert interval == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)


def test_one_seed_has_no_interval_and_no_seed_may_fall_short(make_rows):
    learned, forgotten = attrgetter("learned_unseen"), attrgetter("known_forgotten")
    mean, interval = matched(curve_of(make_rows, {0: 0.4}), learned, forgotten, 0.5)
    assert mean == pytest.approx(0.3) and math.isnan(interval)
    curve = curve_of(make_rows, {0: 0.4, 1: 0.6})
    assert all(map(math.isnan, matched(curve, learned, forgotten, 0.9)))


def test_a_rate_that_a_seed_lacks_joins_no_curve(make_rows):
    """Seed 1 lost its middle rate, and would be joined over what seed 0 measured."""
    points = {1e-5: (0.2, 1.0), 1e-4: (0.5, 0.9), 1e-3: (0.8, 0.4)}
    rows = []
    for seed in (0, 1):
        for rate, (learned, known) in points.items():
            if (seed, rate) != (1, 1e-4):
                told = dict(learning_rate=rate, learned=learned, known=known, seed=seed)
                rows += make_rows("full", **told)
    (curve,) = sweeps(average(summarise(rows))).values()
    mean, interval = matched(
        curve, attrgetter("learned_unseen"), attrgetter("known_forgotten"), 0.5
    )
    assert mean == pytest.approx(0.3) and interval == pytest.approx(0.0)  # halfway, for both
