"""Rules against their formulas in float64, ties, budgets, and independence of the split."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from smf_jax.sharding import device_mesh
from smf_jax.sparse.selection import (
    RULES,
    RULES_WITH_BACKGROUND,
    budget_size,
    check_rule,
    score_slots,
    select_slots,
)
from smf_jax.sparse.usage import PoolUsage, count_accesses
from tests import golden, oracles
from tests.sparse.test_usage import SLOTS as READ_SLOTS
from tests.sparse.test_usage import recorded_reads

SLOTS, BATCHES = 331, 9  # a prime number: no vector width divides it
FORMULAS = ("tfidf", "tf", "kl_df", "kl_acc")

select = jax.jit(select_slots, static_argnames=("rule", "size"))
score = jax.jit(score_slots, static_argnames="rule")


def case(seed=0, accessed=0.4):
    """Counts with many ties, and a background where some slots are in every batch."""
    rng = np.random.default_rng(seed)
    counts = np.where(rng.random(SLOTS) < accessed, rng.integers(1, 6, SLOTS), 0)
    df = np.minimum(rng.integers(0, BATCHES + 3, SLOTS), BATCHES)
    acc = df * rng.integers(1, 4, SLOTS)
    usage = PoolUsage(*(jnp.asarray(a, jnp.int32) for a in (df, acc, BATCHES)))
    return jnp.asarray(counts, jnp.int32), usage, (counts, df, acc, BATCHES)


def chosen(slots):
    """The selected ids; unused places hold N and stand last."""
    slots = np.asarray(slots)
    used = slots < SLOTS
    assert used[: used.sum()].all() and (slots[~used] == SLOTS).all()
    return slots[used]


@pytest.mark.parametrize("rule", FORMULAS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_follow_the_formula(rule, seed):
    counts, usage, numbers = case(seed)
    scores = score(counts, usage, rule)
    assert scores.dtype == jnp.float32
    truth = oracles.rule_scores(rule, *numbers)
    np.testing.assert_allclose(scores, truth, rtol=3e-6, atol=1e-9)


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


@pytest.mark.parametrize("rule", FORMULAS)
def test_equal_usage_scores_equally_to_the_last_bit(rule):
    counts, usage, (_, df, acc, _) = case()
    scores = np.asarray(score(counts, usage, rule)).view(np.int32)
    for key in set(zip(counts.tolist(), df, acc, strict=True)):
        same = np.all(np.stack([counts, df, acc]) == np.array(key)[:, None], axis=0)
        assert len(np.unique(scores[same])) == 1


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
    slots = chosen(select(counts, usage, rule=rule, top_t=100, size=SLOTS, key=key))
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


def test_tfidf_agrees_with_the_public_implementation(shared):
    arrays, _ = golden.load(shared / "golden" / "smf_tfidf_dtunai.npz")
    slots, background = arrays["batch_indices"], arrays["background_indices"]
    table_slots, batches = len(arrays["df"]), int(arrays["num_background_batches"])
    df = sum(np.isin(np.arange(table_slots), batch).astype(int) for batch in background)
    np.testing.assert_array_equal(df, arrays["df"])
    tokens = jnp.asarray(slots.reshape(len(slots), -1))
    counts = count_accesses(tokens, jnp.ones(len(slots), bool), table_slots)
    usage = PoolUsage(*(jnp.asarray(a, jnp.int32) for a in (df, df, batches)))
    scores = np.asarray(score_slots(counts, usage))
    truth = arrays["tfidf_float64"]
    np.testing.assert_array_equal(np.isneginf(scores), np.asarray(counts) == 0)
    np.testing.assert_allclose(np.where(np.isfinite(scores), scores, 0), truth, atol=2e-6)
    top_t = int(arrays["top_t"])
    selected = select_slots(counts, usage, top_t=top_t)
    assert set(selected[:top_t].tolist()) == set(arrays["selected"].tolist())


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
    counts, usage, _ = case()
    with pytest.raises(ValueError, match="top_t=0 must be at least 1 row"):
        budget_size(0)
    with pytest.raises(ValueError, match="rule='best' is unknown; choose from tfidf, tf"):
        select_slots(counts, usage, rule="best")
    with pytest.raises(ValueError, match="rule='random' needs a random key"):
        select_slots(counts, usage, rule="random")
    with pytest.raises(ValueError, match="top_t is an array; give the static size"):
        select_slots(counts, usage, top_t=jnp.asarray(3))
    for rule in RULES_WITH_BACKGROUND:
        with pytest.raises(ValueError, match=f"rule='{rule}' .* none was given; measure one"):
            select_slots(counts, None, rule=rule)
        with pytest.raises(ValueError, match="none was given"):
            check_rule(rule, None)
