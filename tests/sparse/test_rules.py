"""Rules against their formulas in float64, to the last bit alike in both forms."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.sparse.accesses import Accesses, accesses_in_vector, count_reads
from smf_jax.sparse.rules import RULES, Rule, check_rule, score_slots
from smf_jax.sparse.selection import select_slots
from smf_jax.sparse.usage import Protection, with_totals
from smf_jax.training.sparse_config import SparseConfig
from tests import golden, oracles
from tests.sparse.tiny import BATCHES, FORMULAS, SLOTS, case, golden_case

RULES_WITH_BACKGROUND = [name for name, rule in RULES.items() if rule.needs_background]

score = jax.jit(score_slots, static_argnames="rule")


@pytest.mark.parametrize("rule", FORMULAS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_follow_the_formula(rule, seed):
    counts, usage, numbers = case(seed)
    scores = score(counts, usage, rule)
    assert scores.dtype == jnp.float32
    truth = oracles.rule_scores(rule, *numbers)
    np.testing.assert_allclose(scores, truth, rtol=3e-6, atol=1e-9)


@pytest.mark.parametrize("rule", FORMULAS)
def test_equal_usage_scores_equally_to_the_last_bit(rule):
    counts, usage, (_, df, acc, _) = case()
    scores = np.asarray(score(counts, usage, rule)).view(np.int32)
    for key in set(zip(counts.tolist(), df, acc, strict=True)):
        same = np.all(np.stack([counts, df, acc]) == np.array(key)[:, None], axis=0)
        assert len(np.unique(scores[same])) == 1


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "gradient"])
def test_both_forms_score_to_the_same_bit(rule):
    _, usage, _ = case()
    rng = np.random.default_rng(0)
    slots = [jnp.asarray(rng.integers(0, SLOTS, (40, 9)), jnp.int32)]
    weights = [jnp.asarray(rng.random((40, 9)), jnp.float32)] if rule == "mass" else None
    valid, key = jnp.asarray(rng.random(40) < 0.8), jax.random.key(4)
    vector, in_order = (
        jax.jit(count_reads, static_argnames=("table_slots", "form"))(
            slots, valid, SLOTS, weights, form
        )
        for form in ("vector", "sorted")
    )
    scores = np.asarray(score(vector, usage, rule, key))
    own = np.asarray(score(in_order, usage, rule, key))
    stands = np.asarray(in_order.counts) > 0
    assert np.isneginf(own[~stands]).all() and stands.sum() == np.isfinite(scores).sum()
    of_slots = scores[np.asarray(in_order.slots)[stands]]
    np.testing.assert_array_equal(own[stands].view(np.int32), of_slots.view(np.int32))


@pytest.mark.parametrize("rule", ["kl_df", "kl_acc"])
def test_totals_known_beforehand_change_nothing(rule):
    counts, usage, (_, df, acc, _) = case()
    totalled = with_totals(usage)
    assert totalled.frequency_total is not None and totalled.accesses_total is not None
    assert (float(totalled.frequency_total), float(totalled.accesses_total)) == (
        df.sum() + SLOTS,
        acc.sum() + SLOTS,
    )
    np.testing.assert_allclose(score(counts, totalled, rule), score(counts, usage, rule), rtol=1e-6)


@pytest.mark.parametrize("rule", RULES_WITH_BACKGROUND)
@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_protected_slots_count_as_used_in_more_batches(rule, weight):
    counts, usage, (numbers, df, acc, batches) = case(accessed=0.9)
    written = np.random.default_rng(5).random(SLOTS) < 0.3
    protection = Protection(
        jnp.asarray(written), jnp.asarray(written.sum(), jnp.int32), jnp.float32(weight)
    )
    more = weight * batches * written
    given = accesses_in_vector(counts)
    if rule == "mass":
        given = replace(given, amounts=counts.astype(jnp.float32))
    for totalled in (usage, with_totals(usage)):
        scores = score(given, totalled._replace(protection=protection), rule)
        formula = "tfidf" if rule == "mass" else rule
        truth = oracles.rule_scores(formula, numbers, df + more, acc + more, batches)
        np.testing.assert_allclose(scores, truth, rtol=3e-6, atol=1e-9)


def test_slots_protected_by_all_batches_rank_after_every_other():
    counts, usage, (numbers, df, _, _) = case(accessed=0.9)
    written = np.random.default_rng(5).random(SLOTS) < 0.3
    protection = Protection(jnp.asarray(written), jnp.asarray(written.sum()), jnp.float32(1))
    scores = np.asarray(score(counts, usage._replace(protection=protection), "tfidf"))
    open_to_all, read = ~written & (df < BATCHES), numbers > 0
    assert scores[written & read & (df > 0)].max() < 0 < scores[open_to_all & read].min()


def test_mass_is_tfidf_of_other_numbers():
    counts, usage, (numbers, df, acc, batches) = case()
    masses = jnp.where(counts > 0, jnp.asarray(np.random.default_rng(1).random(SLOTS)), 0)
    masses = masses.astype(jnp.float32)
    given = Accesses(None, counts, masses, jnp.sum(masses), SLOTS)
    scores = np.asarray(score(given, usage, "mass"))
    truth = oracles.rule_scores("tfidf", np.asarray(masses), df, acc, batches)
    read = numbers > 0
    np.testing.assert_allclose(scores[read], truth[read], rtol=3e-6, atol=1e-9)
    assert np.isneginf(scores[~read]).all()
    assert not np.allclose(scores[read], np.asarray(score(counts, usage, "tfidf"))[read])


def test_the_rule_gradient_scores_what_it_is_given():
    counts, _, (numbers, *_) = case()
    norms = jnp.asarray(np.random.default_rng(1).random(SLOTS), jnp.float32)
    given = Accesses(None, counts, norms, jnp.sum(counts), SLOTS)
    truth = np.where(numbers > 0, norms, -np.inf)
    np.testing.assert_array_equal(score(given, None, "gradient"), truth)


def test_random_draws_are_even_and_of_key_and_slot_alone():
    ones = jnp.ones(20_000, jnp.int32)
    draws = [np.asarray(score(ones, None, "random", jax.random.key(seed))) for seed in range(4)]
    few = np.asarray(score(ones[:500], None, "random", jax.random.key(0)))
    np.testing.assert_array_equal(few, draws[0][:500])
    for draw in draws:
        assert draw.min() >= 0 and draw.max() < 1 and len(np.unique(draw)) > 19_900
        counts, _ = np.histogram(draw, 50, (0, 1))
        assert ((counts - 400) ** 2 / 400).sum() < 49 + 5 * np.sqrt(2 * 49)
        assert abs(np.corrcoef(draw[1:], draw[:-1])[0, 1]) < 5 / np.sqrt(20_000)
    correlations = np.corrcoef(draws)[np.triu_indices(4, 1)]
    assert (np.abs(correlations) < 5 / np.sqrt(20_000)).all()


@pytest.mark.parametrize("path", golden.SELECTIONS)
def test_tfidf_agrees_with_the_public_implementation(path):
    arrays, _ = golden.load(path)
    counts, usage = golden_case(arrays)
    scores = np.asarray(score_slots(counts, usage))
    np.testing.assert_array_equal(np.isneginf(scores), np.asarray(counts) == 0)
    truth = arrays["tfidf_float64"]
    np.testing.assert_allclose(np.where(np.isfinite(scores), scores, 0), truth, atol=2e-6)


def test_impossible_requests_are_refused():
    counts, usage, _ = case()
    with pytest.raises(ValueError, match="rule='best' is unknown; choose from tfidf, tf"):
        score_slots(counts, usage, rule="best")
    with pytest.raises(ValueError, match="rule='random' needs a random key"):
        score_slots(counts, usage, rule="random")
    for rule in ("mass", "gradient"):
        with pytest.raises(ValueError, match=f"rule='{rule}' scores other numbers than counts"):
            score_slots(counts, usage, rule=rule)
    for rule in RULES_WITH_BACKGROUND:
        with pytest.raises(ValueError, match=f"rule='{rule}' .* none was given; measure one"):
            score_slots(counts, None, rule=rule)
        with pytest.raises(ValueError, match="none was given"):
            check_rule(rule, None)


def test_what_a_rule_is_stands_in_its_entry():
    assert all(name == rule.name for name, rule in RULES.items())
    assert RULES_WITH_BACKGROUND == ["tfidf", "kl_df", "kl_acc", "mass"]
    others = {name: rule.amounts for name, rule in RULES.items() if rule.amounts != "counts"}
    assert others == {"mass": "mass", "gradient": "gradient"}
    assert [name for name, rule in RULES.items() if not rule.has_budget] == ["all"]
    assert [name for name, rule in RULES.items() if rule.needs_key] == ["random"]


def test_a_rule_is_one_entry(monkeypatch):
    rarest = Rule("rarest", lambda accesses, background, key: -accesses.counts.astype(jnp.float32))
    monkeypatch.setitem(RULES, "rarest", rarest)
    counts = jnp.asarray([3, 0, 1, 2], jnp.int32)
    assert select_slots(counts, None, rule="rarest", top_t=2).tolist() == [2, 3, 4, 4]
    assert SparseConfig(rule="rarest", granularity="per_task").rule == "rarest"
