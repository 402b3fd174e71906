"""The best slots in order, ties, budgets, both forms alike, and independence of the split."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from smf_jax.mesh import device_mesh
from smf_jax.sparse.accesses import accesses_in_vector
from smf_jax.sparse.rules import RULES, score_slots
from smf_jax.sparse.selection import (
    GROUP,
    budget_size,
    select_slots,
    top_places,
)
from smf_jax.sparse.usage import PoolUsage, count_accesses
from tests import golden, oracles
from tests.sparse.tiny import (
    FORMULAS,
    READ_SLOTS,
    SLOTS,
    both_forms,
    case,
    chosen,
    golden_case,
    recorded_reads,
)

select = jax.jit(select_slots, static_argnames=("rule", "size"))


@pytest.mark.parametrize("rule", FORMULAS)
@pytest.mark.parametrize("top_t", [1, 17, 64, SLOTS])
def test_the_best_are_selected_in_order_ties_by_the_lower_slot(rule, top_t):
    counts, usage, numbers = case()
    slots = chosen(select(counts, usage, rule=rule, top_t=top_t, size=SLOTS))
    truth = oracles.rule_scores(rule, *numbers)
    # Equal scores come from equal counts and frequencies; float32 keeps all others apart here.
    distinct = np.unique(truth[np.isfinite(truth)])
    assert np.diff(distinct).min() > 1e-7 * np.abs(distinct).max()
    order = np.argsort(-truth, kind="stable")[: min(top_t, (numbers[0] > 0).sum())]
    np.testing.assert_array_equal(slots, order)


def test_negative_scores_may_be_selected_after_all_larger():
    counts, usage, numbers = case(accessed=0.9)
    truth = oracles.rule_scores("kl_df", *numbers)
    negative = np.isfinite(truth) & (truth < 0)
    slots = chosen(select(counts, usage, rule="kl_df", top_t=SLOTS, size=SLOTS))
    assert 0 < negative.sum() < (numbers[0] > 0).sum()
    assert set(slots[-negative.sum() :]) == set(np.flatnonzero(negative))


def test_a_slot_of_every_background_batch_scores_zero_and_comes_last_but_comes():
    counts = jnp.asarray([3, 0, 9, 1, 0], jnp.int32)
    everywhere = jnp.asarray([0, 7, 7, 6, 0], jnp.int32)
    usage = PoolUsage(everywhere, everywhere, jnp.asarray(7, jnp.int32))
    assert score_slots(counts, usage, "tfidf").tolist()[2] == 0
    assert select_slots(counts, usage, top_t=5).tolist() == [0, 3, 2, 5, 5]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("accessed", [0.0, 0.05, 1.0])
def test_a_slot_that_was_not_accessed_is_never_selected(rule, accessed):
    counts, usage, (numbers, *_) = case(accessed=accessed)
    key = jax.random.key(0)
    # What mass and gradient score may be anything where nothing was accessed.
    given = replace(accesses_in_vector(counts), amounts=jnp.ones(SLOTS))
    slots = chosen(select(given, usage, rule=rule, top_t=100, size=SLOTS, key=key))
    assert (numbers[slots] > 0).all() and len(set(slots)) == len(slots)
    available = (numbers > 0).sum()
    assert len(slots) == (available if rule == "all" else min(100, available))


@pytest.mark.parametrize("rule", ["tfidf", "random"])
def test_a_smaller_budget_is_the_beginning_of_a_larger_one(rule):
    counts, usage, _ = case()
    traces = []

    @jax.jit
    def budgeted(top_t):
        traces.append(top_t)
        key = jax.random.key(3)
        return select_slots(counts, usage, rule=rule, top_t=top_t, size=64, key=key)

    largest = chosen(budgeted(jnp.asarray(64, jnp.int32)))
    for budget in (1, 2, 33, 63):
        slots = budgeted(jnp.asarray(budget, jnp.int32))
        assert slots.shape == (64,)
        np.testing.assert_array_equal(chosen(slots), largest[:budget])
    assert len(traces) == 1, "budgets of one size share one compilation"


def test_random_depends_on_its_key_and_on_nothing_else():
    counts, usage, (numbers, *_) = case()
    draw = lambda counts, seed: chosen(  # noqa: E731
        select(counts, usage, rule="random", top_t=20, size=64, key=jax.random.key(seed))
    )
    np.testing.assert_array_equal(draw(counts, 0), draw(counts, 0))
    np.testing.assert_array_equal(draw(counts, 0), draw(counts * 7, 0))
    hits = np.zeros(SLOTS)
    for seed in range(200):
        hits[draw(counts, seed)] += 1
    expected = 200 * 20 / (numbers > 0).sum()
    assert not hits[numbers == 0].any()
    assert (np.abs(hits[numbers > 0] - expected) < 5 * np.sqrt(expected)).all()


def test_all_selects_every_accessed_slot_whatever_the_budget():
    counts, _, (numbers, *_) = case()
    np.testing.assert_array_equal(
        chosen(select_slots(counts, None, rule="all", top_t=1)), np.flatnonzero(numbers)
    )


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_selection_does_not_depend_on_the_number_of_devices(devices):
    slots, valid = recorded_reads()
    mesh = device_mesh("data", jax.devices()[:devices])
    spec = PartitionSpec("data")

    @partial(jax.shard_map, mesh=mesh, in_specs=(spec, spec), out_specs=PartitionSpec())
    def counted(slots, valid):
        return jax.lax.psum(count_accesses(slots, valid, READ_SLOTS), "data")

    whole = oracles.accesses(slots, valid, READ_SLOTS)
    counts = jax.jit(counted)(slots, valid)
    np.testing.assert_array_equal(counts, whole)
    np.testing.assert_array_equal(
        select(counts, None, rule="tf", top_t=5, size=8),
        select(jnp.asarray(whole, jnp.int32), None, rule="tf", top_t=5, size=8),
    )


@pytest.mark.parametrize("cuts", [(), (12,), (3, 3, 20), range(1, 24)])
def test_selection_does_not_depend_on_the_micro_batches(cuts):
    slots, valid = recorded_reads()
    parts = zip(np.split(slots, list(cuts)), np.split(valid, list(cuts)), strict=True)
    count = jax.jit(count_accesses, static_argnums=2)
    counts = sum(count(part, mask, READ_SLOTS) for part, mask in parts)
    whole = oracles.accesses(slots, valid, READ_SLOTS)
    np.testing.assert_array_equal(counts, whole)
    chosen_of = [select(jnp.asarray(c, jnp.int32), None, rule="tf", top_t=5, size=8)
                 for c in (counts, whole)]  # fmt: skip
    np.testing.assert_array_equal(*chosen_of)


@pytest.mark.parametrize("path", golden.SELECTIONS)
def test_the_public_implementation_selects_the_same(path):
    arrays, _ = golden.load(path)
    top_t = int(arrays["top_t"])
    selected = select_slots(*golden_case(arrays), top_t=top_t)
    assert set(selected[:top_t].tolist()) == set(arrays["selected"].tolist())


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "gradient"])
@pytest.mark.parametrize(
    ("table_slots", "read_slots"), [(SLOTS, SLOTS), (SLOTS, 40), (50_000, 50_000), (50_000, 60)]
)
def test_both_forms_select_the_same_slots_in_the_same_order(rule, table_slots, read_slots):
    rng = np.random.default_rng(9)
    df = jnp.asarray(rng.integers(0, 3, table_slots), jnp.int32)
    usage = PoolUsage(df, 2 * df, jnp.asarray(2, jnp.int32))
    key = jax.random.key(1)
    for seed in range(3):
        accesses = both_forms(table_slots, read_slots, 25, 8, rule, seed)
        slots = [
            np.asarray(select(of_form, usage, rule=rule, top_t=50, size=64, key=key))
            for of_form in accesses
        ]
        np.testing.assert_array_equal(slots[0], slots[1])
        accessed = (np.asarray(accesses[0].counts) > 0).sum()
        limit = 64 if rule == "all" else 50
        assert (slots[0] < table_slots).sum() == min(limit, accessed)


def test_fewer_reads_than_places_leave_places_unused():
    vector, in_order = both_forms(5_000, 5_000, 3, 4, "tf", 0)
    slots = [select(of_form, None, rule="tf", top_t=64, size=64) for of_form in (vector, in_order)]
    np.testing.assert_array_equal(slots[0], slots[1])
    assert slots[0].shape == (64,) and (np.asarray(slots[0]) == 5_000).sum() >= 52


@pytest.mark.parametrize("size", [1, 3, 17])
@pytest.mark.parametrize("length", [100, 4 * 17 * GROUP, 4 * 17 * GROUP + 77, 9216])
@pytest.mark.parametrize("largest", [2, 40, None])
def test_the_best_of_a_long_vector_are_those_of_top_k(size, length, largest):
    rng = np.random.default_rng(size * length)
    drawn = rng.random(length) if largest is None else rng.integers(0, largest, length)
    scores = np.where(rng.random(length) < 0.5, drawn, -np.inf).astype(np.float32)
    best, places = jax.jit(top_places, static_argnums=1)(scores, size)
    order = np.argsort(-scores, kind="stable")[:size]
    np.testing.assert_array_equal(best, scores[order])
    np.testing.assert_array_equal(places, order)


def test_a_long_vector_is_not_ranked_as_a_whole():
    length, size = 2**16, 8
    assert length >= 4 * size * GROUP
    text = jax.jit(top_places, static_argnums=1).lower(jnp.zeros(length), size).as_text()
    assert "top_k" in text
    assert not [line for line in text.splitlines() if "top_k" in line and f"{length}x" in line]


@pytest.mark.parametrize(
    ("budget", "size"), [(1, 64), (64, 64), (65, 512), (512, 512), (513, 4096), (32769, 262144)]
)
def test_sizes_are_steps(budget, size):
    assert budget_size(budget) == size


def test_places_are_the_step_of_the_budget_at_most_the_table():
    counts, usage, _ = case()
    assert select_slots(counts, usage, top_t=5).shape == (64,)
    assert select_slots(counts, usage, top_t=65).shape == (SLOTS,)
    assert select_slots(counts, usage, rule="all", top_t=5).shape == (SLOTS,)


@pytest.mark.parametrize("top_t", [0, -4, SLOTS + 1])
def test_budgets_outside_the_table_are_refused(top_t):
    counts, usage, _ = case()
    with pytest.raises(ValueError, match=rf"top_t={top_t} is outside \[1, N={SLOTS}\]; choose"):
        select_slots(counts, usage, top_t=top_t)


def test_impossible_requests_are_refused():
    counts, _, _ = case()
    with pytest.raises(ValueError, match="top_t=0 must be at least 1 row"):
        budget_size(0)
    with pytest.raises(ValueError, match="top_t is an array; give the static size"):
        select_slots(counts, None, rule="tf", top_t=jnp.asarray(3))
