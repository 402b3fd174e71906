"""Rules that score the slots of a batch against general text, one entry of a registry each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from smf_jax.hashing import GOLDEN, finalized
from smf_jax.shapes import SlotCounts, SlotScores
from smf_jax.sparse.accesses import Accesses, accesses_in_vector
from smf_jax.sparse.usage import PoolUsage, used_at, used_in_all

Amounts = Literal["counts", "mass", "gradient"]

EPSILON = 1e-8


@dataclass(frozen=True)
class Rule:
    """How the slots that a batch accessed are ranked."""

    name: str  # by which users choose it
    # ``(accesses, background, key) -> scores`` in the places of the accesses, given a `PoolUsage`
    # and a random key where the rule needs them.
    score: Callable[..., SlotScores]
    # What is scored of a slot: the ``counts`` of its reads, the ``mass`` of their weights, or the
    # norm of its row's ``gradient``.
    amounts: Amounts = "counts"
    needs_background: bool = False  # whether slots are ranked against usage of general text
    needs_key: bool = False  # whether scores are drawn
    has_budget: bool = True  # whether it ranks within a budget, or takes every accessed slot
    is_informative: bool = True  # whether a score, hence a share of scores, says anything of a slot


def check_rule(rule: str, background: object | None) -> None:
    """Refuses unknown rules, and rules that need a background where there is none."""
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} is unknown; choose from {', '.join(RULES)}")
    if RULES[rule].needs_background and background is None:
        raise ValueError(
            f"rule={rule!r} ranks slots against a background and none was given; measure one, or "
            "choose rule='tf'"
        )


def score_slots(
    counts: SlotCounts | Accesses,
    background: PoolUsage | None,
    rule: str = "tfidf",
    key: Array | None = None,
) -> SlotScores:
    """Scores the slots of a batch; slots that it did not access score ``-inf``.

    With ``p = c/Σc``:

    * ``tfidf``: ``p · log((B+1)/(df+1))`` (2510.15103, section 3.2)
    * ``tf``: ``p`` (its ablation)
    * ``kl_df``: ``p log((p+ε)/(q+ε))`` with ``q = (df+1)/Σ(df+1)`` (2604.05248)
    * ``kl_acc``: the same with ``q = (acc+1)/Σ(acc+1)`` (2605.03229)
    * ``mass``: as ``tfidf``, with the sum of a slot's read weights for ``c``
    * ``random``: uniform over accessed slots, the control
    * ``gradient``: the norm of the row's gradient, a control
    * ``all``: one score for all of them

    Given ``(N,)`` int32 accesses of the batch, scores are ``(N,)`` float32; given its `Accesses`
    in either form, they stand in their places. ``mass`` and ``gradient`` need the latter, with the
    amounts to score; ``tfidf``, ``kl_df``, ``kl_acc`` and ``mass`` a background, ``random`` a key.
    An unknown rule is a ValueError, and so is anything that is missing.
    """
    check_rule(rule, background)
    chosen = RULES[rule]
    accesses = counts if isinstance(counts, Accesses) else accesses_in_vector(counts)
    if chosen.amounts != "counts" and accesses.amounts is None:
        raise ValueError(
            f"rule={rule!r} scores other numbers than counts; give Accesses with their amounts"
        )
    if chosen.needs_key and key is None:
        raise ValueError(f"rule={rule!r} needs a random key; pass key=jax.random.key(seed)")
    scores = chosen.score(accesses, background, key)
    return jnp.where(accesses.counts > 0, scores, -jnp.inf)


def _amounts(accesses: Accesses, *_: object) -> SlotScores:
    amounts = accesses.counts if accesses.amounts is None else accesses.amounts
    return amounts.astype(jnp.float32)


def _shares(accesses: Accesses, *_: object) -> SlotScores:
    total = accesses.total.astype(jnp.float32)
    return _amounts(accesses) / jnp.maximum(total, jnp.finfo(jnp.float32).tiny)


def _tfidf(accesses: Accesses, background: PoolUsage, _: object) -> SlotScores:
    batches = background.batches.astype(jnp.float32)
    used = used_at(background, "df", accesses.slots)
    return _shares(accesses) * jnp.log((batches + 1) / (used + 1))


def _divergence(
    statistic: Literal["df", "acc"], accesses: Accesses, background: PoolUsage, _: object
) -> SlotScores:
    p, used = _shares(accesses), used_at(background, statistic, accesses.slots)
    q = (used + 1) / used_in_all(background, statistic)
    return p * jnp.log((p + EPSILON) / (q + EPSILON))


def _equal(accesses: Accesses, *_: object) -> SlotScores:
    return jnp.zeros(accesses.counts.shape, jnp.float32)


def _random(accesses: Accesses, _: object, key: Array) -> SlotScores:
    """One number in ``[0, 1)`` for each slot, a function of key and slot id alone."""
    # A counter-based hash: two rounds of the 32-bit finalizer of MurmurHash3 over the slot id, each
    # after mixing in a random word, top 24 bits kept. A draw over the whole table would cost more
    # and would not be at hand for the slots of the sorted form only.
    slots = jnp.arange(accesses.table_slots) if accesses.slots is None else accesses.slots
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    bits = finalized(slots.astype(jnp.uint32) * jnp.uint32(GOLDEN) + first)
    return (finalized(bits ^ second) >> 8).astype(jnp.float32) * jnp.float32(2**-24)


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("tfidf", _tfidf, needs_background=True),
        Rule("tf", _shares),
        Rule("kl_df", partial(_divergence, "df"), needs_background=True),
        Rule("kl_acc", partial(_divergence, "acc"), needs_background=True),
        Rule("mass", _tfidf, amounts="mass", needs_background=True),
        Rule("random", _random, needs_key=True, is_informative=False),
        Rule("gradient", _amounts, amounts="gradient"),
        Rule("all", _equal, has_budget=False, is_informative=False),
    )
}
