"""Slot health against other formulas of the same numbers, in plain NumPy, and at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from smf_jax.evaluation.slot_health import slot_health, usage_drift


def skewed(seed: int, slots: int) -> np.ndarray:
    """Counts as a memory's are: some slots busy, many idle."""
    rng = np.random.default_rng(seed)
    return np.floor(rng.pareto(1.0, slots)).astype(np.int32)


@pytest.mark.parametrize("slots", [7, 100, 101, 256])
def test_the_numbers_are_those_of_the_definitions(slots):
    counts = skewed(slots, slots)
    found = slot_health(counts)
    x = counts.astype(np.float64)
    p = x / x.sum()
    assert (found.slots, found.accesses) == (slots, counts.sum())
    assert found.used_share == pytest.approx(np.mean(counts != 0))
    terms = [q * math.log(q / (1 / slots)) for q in p if q]
    assert found.kl_to_uniform == pytest.approx(sum(terms), rel=1e-12)
    # The mean absolute difference of all pairs over twice the mean: Gini's own definition.
    gini = np.abs(x[:, None] - x[None]).mean() / (2 * x.mean())
    assert found.gini == pytest.approx(gini, rel=1e-12)
    assert found.top_1_share == pytest.approx(p.max())
    assert found.busiest_percent_share == pytest.approx(
        sum(sorted(p, reverse=True)[: math.ceil(slots / 100)])
    )


def test_even_use_is_perfect_health():
    found = slot_health(np.full(200, 3))
    assert (found.used_share, found.top_1_share) == (1.0, 1 / 200)
    assert found.kl_to_uniform == found.gini == 0
    assert found.busiest_percent_share == pytest.approx(2 / 200)


def test_one_slot_for_everything_is_the_worst():
    counts = np.zeros(64, np.int32)
    counts[17] = 5
    found = slot_health(counts)
    assert found.kl_to_uniform == pytest.approx(math.log(64))
    assert found.gini == pytest.approx(1 - 1 / 64)
    assert (found.used_share, found.top_1_share, found.busiest_percent_share) == (1 / 64, 1, 1)


def test_a_table_of_one_slot():
    found = slot_health(np.array([9]))
    assert found.kl_to_uniform == found.gini == 0
    assert found.used_share == found.top_1_share == found.busiest_percent_share == 1


def test_neither_the_order_of_slots_nor_the_length_of_the_text_matters():
    counts = skewed(0, 150)
    one = slot_health(counts)
    shuffled = slot_health(np.random.default_rng(1).permutation(counts) * 7)
    assert shuffled.accesses == 7 * one.accesses
    for name in ("used_share", "kl_to_uniform", "gini", "top_1_share", "busiest_percent_share"):
        assert getattr(shuffled, name) == pytest.approx(getattr(one, name), rel=1e-12)


def test_counts_of_many_tokens_do_not_overflow():
    counts = np.full(1000, 2**30, np.int32)
    counts[0] = 2**31 - 1
    assert slot_health(counts).accesses == 999 * 2**30 + 2**31 - 1
    assert slot_health(counts).gini == pytest.approx(0.000998, rel=1e-3)


def test_drift_is_the_divergence_of_the_two_uses():
    before, after = skewed(2, 90), skewed(3, 90)
    p, q = (before + 1) / (before + 1).sum(), (after + 1) / (after + 1).sum()
    expected = sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    assert usage_drift(before, after) == pytest.approx(expected, rel=1e-12)
    assert usage_drift(after, before) != pytest.approx(expected, rel=1e-3)
    assert usage_drift(before, before) == 0


def test_drift_is_finite_where_only_one_model_reads_a_slot():
    assert 0 < usage_drift(np.array([5, 0]), np.array([0, 5])) < math.inf


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.zeros(4, int), "counts hold no access"),
        (np.array([1, -2, 3]), r"counts\[1\]=-2: accesses cannot be negative"),
        (np.zeros(0, int), r"int64\[0\]: expected whole numbers \(N,\)"),
        (np.ones((2, 2), int), r"\[2, 2\]: expected whole numbers"),
        (np.ones(3), "float64"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_what_is_no_count_is_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        slot_health(counts)
    with pytest.raises(ValueError, match=message):
        usage_drift(np.ones(3, int), counts)


@pytest.mark.usefixtures("unchecked_shapes")
def test_counts_of_two_tables_are_refused():
    with pytest.raises(ValueError, match="before has 3 slots, after 4"):
        usage_drift(np.ones(3, int), np.ones(4, int))
