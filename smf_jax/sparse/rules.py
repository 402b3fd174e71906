"""Rules that score the slots of a batch against general text."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt

from smf_jax.shapes import SlotCounts, SlotScores
from smf_jax.sparse.accesses import Accesses, accesses_in_vector
from smf_jax.sparse.usage import PoolUsage, used_at, used_in_all

Rule = Literal["tfidf", "tf", "kl_df", "kl_acc", "mass", "random", "gradient", "all"]

RULES: tuple[str, ...] = get_args(Rule)
RULES_WITH_BACKGROUND = ("tfidf", "kl_df", "kl_acc", "mass")
EPSILON = 1e-8


def check_rule(rule: str, background: object | None) -> None:
    """Refuses unknown rules, and rules that need a background where there is none.

    Raises:
      ValueError: naming the rule and the choices, or the missing background.
    """
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} is unknown; choose from {', '.join(RULES)}")
    if rule in RULES_WITH_BACKGROUND and background is None:
        raise ValueError(
            f"rule={rule!r} ranks slots against a background and none was given; measure one, or "
            "choose rule='tf'"
        )


def score_slots(
    counts: SlotCounts | Accesses,
    background: PoolUsage | None,
    rule: Rule = "tfidf",
    key: Array | None = None,
) -> SlotScores:
    """Scores the slots of a batch; slots that it did not access score ``-inf``.

    With ``p = c/Σc``:

    * ``tfidf``: ``p · log((B+1)/(df+1))`` (2510.15103, section 3.2)
    * ``tf``: ``p`` (its ablation)
    * ``kl_df``: ``p log((p+ε)/(q+ε))`` with ``q = (df+1)/Σ(df+1)`` (2604.05248)
    * ``kl_acc``: the same with ``q = (acc+1)/Σ(acc+1)`` (2605.03229)
    * ``mass``: as ``tfidf``, with the sum of a slot's read weights for ``c``
    * ``gradient``: the norm of the row's gradient, a control
    * ``random``: uniform over accessed slots, the control; ``all``: one score for all of them

    Args:
      counts: ``(N,)`` int32 accesses of the batch, or its `Accesses` in either form; ``mass`` and
        ``gradient`` need those with the amounts to score.
      background: usage of general text; needed by ``tfidf``, ``kl_df``, ``kl_acc``, ``mass``.
      rule: see above.
      key: random key, for ``random`` only.

    Returns:
      ``(N,)`` float32, or in the places of the sorted form.

    Raises:
      ValueError: for an unknown rule, a missing background, missing amounts or a missing key.
    """
    check_rule(rule, background)
    accesses = counts if isinstance(counts, Accesses) else accesses_in_vector(counts)
    if rule in ("mass", "gradient") and accesses.amounts is None:
        raise ValueError(
            f"rule={rule!r} scores other numbers than counts; give Accesses with their amounts"
        )
    scores = _scores(accesses, background, rule, key)
    return jnp.where(accesses.counts > 0, scores, -jnp.inf)


def _scores(
    accesses: Accesses, background: PoolUsage | None, rule: Rule, key: Array | None
) -> SlotScores:
    slots = accesses.slots
    if rule == "random":
        if key is None:
            raise ValueError("rule='random' needs a random key; pass key=jax.random.key(seed)")
        return _draws(key, jnp.arange(accesses.table_slots) if slots is None else slots)
    if rule == "all":
        return jnp.zeros(accesses.places, jnp.float32)
    amounts = accesses.counts if accesses.amounts is None else accesses.amounts
    amounts = amounts.astype(jnp.float32)
    if rule == "gradient":
        return amounts
    p = amounts / jnp.maximum(accesses.total.astype(jnp.float32), jnp.finfo(jnp.float32).tiny)
    if rule == "tf" or background is None:
        return p
    if rule in ("tfidf", "mass"):
        batches = background.batches.astype(jnp.float32)
        return p * jnp.log((batches + 1) / (used_at(background, "df", slots) + 1))
    statistic = "df" if rule == "kl_df" else "acc"
    q = (used_at(background, statistic, slots) + 1) / used_in_all(background, statistic)
    return p * jnp.log((p + EPSILON) / (q + EPSILON))


def _draws(key: Array, slots: Int[Array, " m"]) -> Float[Array, " m"]:
    """One number in ``[0, 1)`` for each slot, a function of key and slot id alone.

    A counter-based hash: two rounds of the 32-bit finalizer of MurmurHash3 over the slot id, each
    after mixing in a random word, top 24 bits kept. A draw over the whole table would cost more
    and would not be at hand for the slots of the sorted form only.
    """
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    bits = _finalized(slots.astype(jnp.uint32) * jnp.uint32(0x9E3779B9) + first)
    return (_finalized(bits ^ second) >> 8).astype(jnp.float32) * jnp.float32(2**-24)


def _finalized(bits: UInt[Array, " m"]) -> UInt[Array, " m"]:
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)
