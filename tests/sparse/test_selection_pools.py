"""Budgets of several pools, and budgets that follow the scores."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.sparse.accesses import accesses_in_vector
from smf_jax.sparse.rules import score_slots
from smf_jax.sparse.selection import select_in_pools, select_slots
from smf_jax.sparse.usage import PoolUsage
from tests import oracles
from tests.sparse.tiny import BATCHES, SLOTS, both_forms, case, chosen

select_pools = jax.jit(select_in_pools, static_argnames=("rule", "size", "scope", "score_share"))
POOLS = ("memory/pool_1/values", "memory/pool_2/values")


def pools_case():
    """Two pools of different sizes; few slots of the second are read, so that they score high."""
    rng = np.random.default_rng(11)
    counts = {POOLS[0]: rng.integers(0, 4, 150), POOLS[1]: rng.integers(0, 4, 60)}
    counts[POOLS[1]][20:] = 0
    df = {pool: rng.integers(0, 10, len(of_pool)) for pool, of_pool in counts.items()}
    accesses = {p: accesses_in_vector(jnp.asarray(c, jnp.int32)) for p, c in counts.items()}
    usage = {
        pool: PoolUsage(
            jnp.asarray(of_pool, jnp.int32),
            jnp.asarray(of_pool, jnp.int32),
            jnp.asarray(BATCHES, jnp.int32),
        )
        for pool, of_pool in df.items()
    }
    scores = {
        pool: np.asarray(score_slots(accesses[pool], usage[pool])).astype(np.float64)
        for pool in POOLS
    }
    return accesses, usage, scores


def of_pools(scores, number):
    """The best of all pools, by pool and slot; ties by the first pool, then the lower slot."""
    flat = [(-score, place, slot) for place, pool in enumerate(POOLS)
            for slot, score in enumerate(scores[pool]) if np.isfinite(score)]  # fmt: skip
    best = sorted(flat)[:number]
    return {pool: [slot for _, of, slot in best if of == place] for place, pool in enumerate(POOLS)}


def used(slots, accesses):
    """By pool, the selected slots; unused places stand last."""
    found = {}
    for pool, of_pool in slots.items():
        array = np.asarray(of_pool)
        number = (array < accesses[pool].table_slots).sum()
        assert (array[number:] == accesses[pool].table_slots).all()
        found[pool] = array[:number].tolist()
    return found


KEY = jax.random.key(0)


@pytest.mark.parametrize("top_t", [1, 10, 64, 1000])
def test_a_shared_budget_takes_the_best_of_all_pools(top_t):
    accesses, usage, scores = pools_case()
    budget = jnp.asarray(top_t, jnp.int32)
    slots = select_pools(
        accesses, usage, rule="tfidf", top_t=budget, size=64, key=KEY, scope="shared"
    )
    expected = of_pools(scores, min(top_t, 64))
    assert used(slots, accesses) == expected
    assert [of_pool.shape for of_pool in slots.values()] == [(64,), (60,)]


def test_budgets_of_layers_are_those_of_each_pool_alone():
    accesses, usage, scores = pools_case()
    slots = select_pools(accesses, usage, rule="tfidf", top_t=10, size=64, key=KEY)
    alone = {pool: select_slots(accesses[pool], usage[pool], top_t=10) for pool in POOLS}
    for pool in POOLS:
        np.testing.assert_array_equal(slots[pool], alone[pool][: len(slots[pool])])
    assert used(slots, accesses) != of_pools(scores, 10)


def covering(scores, share):
    """The smallest number of best scores that covers a share of the positive ones' sum."""
    positive = -np.sort(-scores[np.isfinite(scores) & (scores > 0)])
    ahead = np.concatenate([[0], np.cumsum(positive)[:-1]])
    return int((ahead < share * positive.sum()).sum())


@pytest.mark.parametrize("share", [0.1, 0.5, 0.83, 1.0])
@pytest.mark.parametrize("top_t", [12, 64])
def test_a_share_of_the_score_takes_the_smallest_set_that_covers_it(share, top_t):
    accesses, usage, scores = pools_case()
    slots = used(
        select_pools(
            accesses, usage, rule="tfidf", top_t=top_t, size=64, key=KEY, score_share=share
        ),
        accesses,
    )
    for pool in POOLS:
        number = min(covering(scores[pool], share), top_t)
        assert slots[pool] == np.argsort(-scores[pool], kind="stable")[:number].tolist()
    together = select_pools(
        accesses, usage, rule="tfidf", top_t=top_t, size=64, key=KEY, scope="shared",
        score_share=share,
    )  # fmt: skip
    number = min(covering(np.concatenate(list(scores.values())), share), top_t)
    assert used(together, accesses) == of_pools(scores, number)


def test_a_share_counts_the_scores_beyond_the_budget():
    # Ten equal scores, of which the budget's places see four: half of the sum is five of them.
    counts = {"pool": accesses_in_vector(jnp.ones(10, jnp.int32))}
    slots = [
        select_in_pools(counts, None, rule="tf", top_t=8, size=size, key=KEY, score_share=0.5)
        for size in (8, 4)
    ]
    assert [used(s, counts)["pool"] for s in slots] == [[0, 1, 2, 3, 4], [0, 1, 2, 3]]


def test_negative_scores_and_zeros_cover_nothing():
    counts, usage, numbers = case(accessed=0.9)
    truth = oracles.rule_scores("kl_df", *numbers)
    given = {"pool": accesses_in_vector(counts)}
    for share in (0.9999, 1.0):
        slots = select_pools(
            given, {"pool": usage}, rule="kl_df", top_t=SLOTS, size=SLOTS, key=KEY,
            score_share=share,
        )["pool"]  # fmt: skip
        assert (truth[chosen(slots)] > 0).all()
    assert len(chosen(slots)) == (truth > 0).sum() < np.isfinite(truth).sum()
    nothing = {"pool": accesses_in_vector(jnp.zeros(SLOTS, jnp.int32))}
    none = select_pools(nothing, None, rule="tf", top_t=5, size=8, key=KEY, score_share=0.5)
    assert not chosen(none["pool"]).size


@pytest.mark.parametrize("rule", ["tfidf", "tf", "kl_acc", "mass"])
def test_a_share_takes_as_many_slots_in_either_form(rule):
    rng = np.random.default_rng(9)
    df = jnp.asarray(rng.integers(0, 9, 3_000), jnp.int32)
    usage = {"pool": PoolUsage(df, 2 * df, jnp.asarray(9, jnp.int32))}
    for seed in range(5):
        slots = [
            select_pools(
                {"pool": of_form}, usage, rule=rule, top_t=200, size=512, key=KEY,
                score_share=0.37,
            )["pool"]
            for of_form in both_forms(3_000, 300, 40, 12, rule, seed)
        ]  # fmt: skip
        np.testing.assert_array_equal(*slots)
        assert 1 < (np.asarray(slots[0]) < 3_000).sum() < 200


def test_pools_draw_their_own_random_numbers():
    counts, _, _ = case(accessed=1.0)
    given = {pool: accesses_in_vector(counts) for pool in POOLS}
    slots = select_pools(given, None, rule="random", top_t=30, size=64, key=KEY)
    first, second = (set(chosen(slots[pool]).tolist()) for pool in POOLS)
    assert len(first & second) < 15
