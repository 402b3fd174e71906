"""Which rows a step may change: the best slots by a rule, within a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from smf_jax.shapes import SlotCounts, SlotIds, SlotScores
from smf_jax.sparse.accesses import Accesses, accesses_in_vector, exact_sum
from smf_jax.sparse.rules import RULES, check_rule, score_slots
from smf_jax.sparse.usage import PoolUsage, used_at

Granularity = Literal["per_step", "per_micro_batch", "per_task"]
BudgetScope = Literal["per_layer", "shared"]

GRANULARITIES: tuple[str, ...] = get_args(Granularity)

# Slots of one group, where the best are sought among the groups' maxima first.
GROUP = 128
# Scores are counted in this part of the best one where shares of their sum are compared.
_SHARE_UNIT = 2.0**-20


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


def select_slots(
    counts: SlotCounts | Accesses,
    background: PoolUsage | None,
    *,
    rule: str = "tfidf",
    top_t: int | Int[Array, ""] = 64,
    size: int | None = None,
    key: Array | None = None,
) -> SlotIds:
    """The ``top_t`` best accessed slots, ``(s,)`` int32, best first; ties go to the lower slot.

    Slots that were not accessed are never selected: unused places hold ``N``, which writes drop.
    Negative scores (KL rules) may be selected, after all larger ones. Accesses, in either form,
    background, rule and key are those of `score_slots`. The budget ``top_t`` is an array where
    several budgets share one compilation; rule ``all`` ignores it. ``size`` is the static number of
    places ``s``, by default ``budget_size(top_t)``, at most ``N``, and ``N`` for rule ``all``. A
    budget outside ``[1, N]`` is a ValueError, and so is what `score_slots` refuses.
    """
    check_rule(rule, background)
    budgeted = RULES[rule].has_budget
    accesses = counts if isinstance(counts, Accesses) else accesses_in_vector(counts)
    table_slots = accesses.table_slots
    if isinstance(top_t, int) and not 1 <= top_t <= table_slots:
        raise ValueError(
            f"top_t={top_t} is outside [1, N={table_slots}]; choose a budget within the table"
        )
    if size is None:
        if budgeted and not isinstance(top_t, int):
            raise ValueError("top_t is an array; give the static size, size=budget_size(largest)")
        size = budget_size(top_t) if budgeted and isinstance(top_t, int) else table_slots
    scores = score_slots(accesses, background, rule, key)
    slots, _ = rank_slots(accesses, scores, min(size, table_slots))
    return _first(slots, top_t if budgeted else size, table_slots)


def select_in_pools(
    accesses: Mapping[str, Accesses],
    background: Mapping[str, PoolUsage] | None,
    *,
    rule: str,
    top_t: int | Int[Array, ""],
    size: int,
    key: Array,
    scope: BudgetScope = "per_layer",
    score_share: float | None = None,
    max_df: float = 1.0,
) -> dict[str, SlotIds]:
    """Selects slots of several pools as `select_slots` does, mappings being by pool path.

    Scope ``per_layer`` is a budget for each pool (2604.05248, 2605.03229), ``shared`` one for all
    of them: scores are compared across pools, ties go by the pool named first. Where a
    ``score_share`` is given, no more slots are taken than cover this share of the summed positive
    scores of all accessed slots: the smallest such set, at most ``top_t``. Below 1, ``max_df`` is
    the share of background batches that may touch a slot: more frequent ones are never selected,
    however often the batch reads them. Rule ``random`` draws for every pool from a key of its own.
    Of the ``size`` places, unused ones hold ``N``.
    """
    scores, slots, best = {}, {}, {}
    for index, (pool, of_pool) in enumerate(sorted(accesses.items())):
        usage = None if background is None else background[pool]
        scores[pool] = score_slots(of_pool, usage, rule, jax.random.fold_in(key, index))
        if usage is not None and max_df < 1:
            # As general text uses them: what earlier tasks wrote ranks later and is not forbidden.
            df = used_at(usage._replace(protection=None), "df", of_pool.slots)
            is_rare = df <= max_df * usage.batches
            scores[pool] = jnp.where(is_rare, scores[pool], -jnp.inf)
        places = min(size, of_pool.table_slots)
        slots[pool], best[pool] = rank_slots(of_pool, scores[pool], places)
    limit = jnp.asarray(top_t if RULES[rule].has_budget else size, jnp.int32)
    if scope == "shared":
        numbers = _shared_numbers(best, scores, size, limit, score_share)
    else:
        numbers = {
            pool: _number(of_pool, [scores[pool]], limit, score_share)
            for pool, of_pool in best.items()
        }
    return {
        pool: _first(of_pool, numbers[pool], accesses[pool].table_slots)
        for pool, of_pool in slots.items()
    }


def rank_slots(
    accesses: Accesses, scores: SlotScores, size: int
) -> tuple[SlotIds, Float[Array, " s"]]:
    """The ``size <= N`` best slots and their scores, best first; ``N``, ``-inf`` where too few."""
    best, places = top_places(scores, min(size, scores.shape[0]))
    slots = places if accesses.slots is None else accesses.slots[places]
    slots = jnp.where(best > -jnp.inf, slots, accesses.table_slots).astype(jnp.int32)
    missing = size - slots.shape[0]
    slots = jnp.pad(slots, (0, missing), constant_values=accesses.table_slots)
    return slots, jnp.pad(best, (0, missing), constant_values=-jnp.inf)


def top_places(scores: SlotScores, size: int) -> tuple[Float[Array, " s"], Int[Array, " s"]]:
    """The ``size`` largest scores and their places, ties by the lower place: ``lax.top_k``, exact.

    Of a long vector the maxima of groups are ranked first: whoever is among the best ``s`` stands
    in one of the ``s`` groups of the largest maxima, because each group ahead of its own holds a
    score ahead of it. Measured on a CPU at 4M scores: 1.6 ms where `lax.top_k` takes 15.
    """
    if scores.shape[0] < 4 * size * GROUP:
        best, places = lax.top_k(scores, size)
        return best, places
    padded = jnp.pad(scores, (0, -scores.shape[0] % GROUP), constant_values=-jnp.inf)
    groups = padded.reshape(-1, GROUP)
    _, winners = lax.top_k(jnp.max(groups, axis=1), size)
    # In order, so that a tie between groups goes to the lower one.
    winners = jnp.sort(winners)
    best, places = lax.top_k(groups[winners].reshape(-1), size)
    return best, winners[places // GROUP] * GROUP + places % GROUP


def _first(slots: SlotIds, number: int | Int[Array, ""], table_slots: int) -> SlotIds:
    return jnp.where(jnp.arange(slots.shape[0]) < number, slots, table_slots)


def _shared_numbers(
    best: Mapping[str, Float[Array, " s"]],
    scores: Mapping[str, SlotScores],
    size: int,
    limit: Int[Array, ""],
    score_share: float | None,
) -> dict[str, Int[Array, ""]]:
    """How many slots of each pool are among the best of all: the first of its ranking."""
    candidates = jnp.concatenate(list(best.values()))
    of_all, places = lax.top_k(candidates, min(size, candidates.shape[0]))
    number = _number(of_all, list(scores.values()), limit, score_share)
    chosen = (jnp.arange(of_all.shape[0]) < number) & (of_all > -jnp.inf)
    numbers, start = {}, 0
    for pool, of_pool in best.items():
        end = start + of_pool.shape[0]
        own = chosen & (places >= start) & (places < end)
        numbers[pool], start = jnp.sum(own, dtype=jnp.int32), end
    return numbers


def _number(
    best: Float[Array, " s"],
    scores: Sequence[Float[Array, " _N"]],
    limit: Int[Array, ""],
    score_share: float | None,
) -> Int[Array, ""]:
    """How many of the best scores to take: the limit, or fewer if they cover enough of the sum."""
    if score_share is None:
        return limit
    if score_share == 1:
        return jnp.minimum(limit, jnp.sum(best > 0, dtype=jnp.int32))
    # Whole parts of the best score: their sum does not depend on the form of the accesses.
    unit = jnp.maximum(best[0], jnp.finfo(jnp.float32).tiny) * _SHARE_UNIT

    def parts(scores: SlotScores) -> Int[Array, " m"]:
        return jnp.round(jnp.maximum(scores, 0) / unit).astype(jnp.int32)

    total = sum(exact_sum(parts(of_pool)) for of_pool in scores)
    own = parts(best)
    ahead = jnp.cumsum(own.astype(jnp.float32)) - own
    covering = jnp.sum((ahead < score_share * total) & (own > 0), dtype=jnp.int32)
    return jnp.minimum(limit, covering)
