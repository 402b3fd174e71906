"""Which rows a step may change: rules that rank the slots of a batch against general text."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from smf_jax.shapes import SlotCounts, SlotIds, SlotScores
from smf_jax.sparse.usage import PoolUsage

Rule = Literal["tfidf", "tf", "kl_df", "kl_acc", "random", "all"]
Granularity = Literal["per_step", "per_task"]

RULES: tuple[str, ...] = get_args(Rule)
GRANULARITIES: tuple[str, ...] = get_args(Granularity)
RULES_WITH_BACKGROUND = ("tfidf", "kl_df", "kl_acc")
EPSILON = 1e-8


def budget_size(budget: int) -> int:
    """Static size of a budget: the next of 64, 512, 4,096, 32,768, … at or above it.

    Budgets of one size share one compilation, whatever else is in the grid; so a trial's numbers
    depend neither on its neighbours nor on its shard.
    """
    if budget < 1:
        raise ValueError(f"top_t={budget} must be at least 1 row; give a positive budget")
    size = 64
    while size < budget:
        size *= 8
    return size


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
    counts: SlotCounts,
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
    * ``random``: uniform over accessed slots, the control; ``all``: one score for all of them

    Args:
      counts: ``(N,)`` int32 accesses of the batch.
      background: usage of general text; needed by ``tfidf``, ``kl_df``, ``kl_acc``.
      rule: see above.
      key: random key, for ``random`` only.

    Returns:
      ``(N,)`` float32.

    Raises:
      ValueError: for an unknown rule, a missing background or a missing key.
    """
    check_rule(rule, background)
    accessed = counts > 0
    p = counts.astype(jnp.float32) / jnp.maximum(jnp.sum(counts), 1).astype(jnp.float32)
    if rule == "random":
        if key is None:
            raise ValueError("rule='random' needs a random key; pass key=jax.random.key(seed)")
        scores = jax.random.uniform(key, counts.shape)
    elif rule == "all":
        scores = jnp.zeros(counts.shape, jnp.float32)
    elif rule == "tf" or background is None:
        scores = p
    elif rule == "tfidf":
        batches = background.batches.astype(jnp.float32)
        frequency = background.document_frequency.astype(jnp.float32)
        scores = p * jnp.log((batches + 1) / (frequency + 1))
    else:
        used = background.document_frequency if rule == "kl_df" else background.accesses
        smoothed = used.astype(jnp.float32) + 1
        q = smoothed / jnp.sum(smoothed)
        scores = p * jnp.log((p + EPSILON) / (q + EPSILON))
    return jnp.where(accessed, scores, -jnp.inf)


def select_slots(
    counts: SlotCounts,
    background: PoolUsage | None,
    *,
    rule: Rule = "tfidf",
    top_t: int | Int[Array, ""] = 64,
    size: int | None = None,
    key: Array | None = None,
) -> SlotIds:
    """The ``top_t`` best accessed slots, best first; ties go to the lower slot.

    Fewer accessed slots than ``top_t`` means fewer selected: never a slot that was not accessed.
    Negative scores (KL rules) may be selected, after all larger ones.

    Args:
      counts: ``(N,)`` int32 accesses of the batch, summed over micro-batches and devices.
      background: usage of general text, see `score_slots`.
      rule: see `score_slots`; ``all`` ignores ``top_t`` and selects up to ``size``.
      top_t: the budget; an array where several budgets share one compilation.
      size: static number of places ``s``; by default ``budget_size(top_t)``, at most ``N``, and
        ``N`` for rule ``all``.
      key: random key, for ``random`` only.

    Returns:
      ``(s,)`` int32 slot ids; unused places hold ``N``, which writes drop.

    Raises:
      ValueError: for an unknown rule, a missing background, or a budget outside ``[1, N]``.
    """
    table_slots = counts.shape[0]
    if isinstance(top_t, int) and not 1 <= top_t <= table_slots:
        raise ValueError(
            f"top_t={top_t} is outside [1, N={table_slots}]; choose a budget within the table"
        )
    if size is None and rule == "all":
        size = table_slots
    elif size is None:
        if not isinstance(top_t, int):
            raise ValueError("top_t is an array; give the static size, size=budget_size(largest)")
        size = budget_size(top_t)
    size = min(size, table_slots)
    scores = score_slots(counts, background, rule, key)
    best, slots = jax.lax.top_k(scores, size)
    within = jnp.arange(size) < (size if rule == "all" else top_t)
    return jnp.where(within & (best > -jnp.inf), slots, table_slots).astype(jnp.int32)
