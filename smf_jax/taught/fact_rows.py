"""The rows of one fact: those of its patch that are read for it more than for the other facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from smf_jax.sparse.patch import Patch, make_patch, pool_change
from smf_jax.taught.asking import TaughtModel
from smf_jax.taught.lessons import worded
from smf_jax.taught.provenance import Reads
from smf_jax.taught.record import PatchEntry, Record, TaughtFact

# Shares of a row's reads from which it is a fact's own, the strictest first.
SHARES = (0.9, 0.5, 0.25, 0.0)


def find_fact(record: Record, text: str) -> TaughtFact:
    """The learned fact whose question holds these words; a ValueError if it is none, or several."""
    facts = [fact for fact in record.current().values() if fact.status == "learned"]
    found = [fact for fact in facts if fact.question == text] or [
        fact for fact in facts if text.lower() in fact.question.lower()
    ]
    if len(found) != 1:
        told = "; ".join(fact.question for fact in (found or facts)[:5])
        raise ValueError(
            f"--fact={text}: {len(found)} learned facts ask that, expected one; give more of its "
            f"question, as in: {told or 'none, nothing is learned'}"
        )
    return found[0]


def patches_of(record: Record, fact: TaughtFact) -> list[int]:
    """The places of the patches that taught a fact: its task's, and those that did once more.

    A ValueError if no patch did.
    """
    lesson = next(each for each in record.lessons if any(f is fact for f in each.facts))
    places = [
        place
        for place, entry in enumerate(record.patches)
        if (entry.lesson, entry.task) == (lesson.name, fact.task)
        or fact.question in (*entry.questions, *entry.beside)
    ]
    if not places:
        raise ValueError(
            f"--fact={fact.question}: no patch taught it, so that there is nothing to take back; "
            "smf list tells what each has taught"
        )
    return places


def taught_by(record: Record, entry: PatchEntry) -> list[TaughtFact]:
    """The facts that a patch taught and that the model still knows."""
    lesson = record.lesson(entry.lesson)
    current = record.current().values()
    own = {fact.key for fact in lesson.of_task(entry.task)}
    asked = {*entry.questions, *entry.beside}
    return [fact for fact in current if fact.key in own or fact.question in asked]


def shares_of(
    model: TaughtModel, fact: TaughtFact, others: Sequence[TaughtFact]
) -> dict[str, np.ndarray]:
    """By table, the share ``(N,)`` of each row's read weight that a fact has among ``others``.

    -1 at rows that it does not read. Each fact is read in the prompts that it is asked in, with its
    answer, and counts the same.
    """
    reads, tokenizer = Reads(model.base.model), model.base.tokenizer
    sums: dict[str, list[np.ndarray]] = {}
    for each in (fact, *others):
        weights: dict[str, np.ndarray] = {}
        for prompt in (*(said.asked for said in each.before), *each.train[:2]):
            ids = [
                *tokenizer.encode_prompt(prompt),
                *tokenizer.encode(worded(prompt, each.answers[0]).answer),
            ]
            for table, (slots, of_slots) in reads.of(model.params, ids).items():
                total = weights.setdefault(table, np.zeros(len(model.params[table])))
                np.add.at(total, slots, of_slots)
        for table, total in weights.items():
            sums.setdefault(table, []).append(total)
    shares = {}
    for table, (own, *rest) in sums.items():
        every = own + sum(rest, np.zeros_like(own))
        shares[table] = np.where(own > 0, own / np.where(every > 0, every, 1), -1.0)
    return shares


def without_rows(
    patch: Patch, shares: Mapping[str, np.ndarray], least: float, later: Sequence[Patch]
) -> tuple[Patch, int, int]:
    """A patch without the rows that are a fact's own by this share, and how many these are.

    Rows that later patches wrote stay; the last number is of them.
    """
    pools, gone, stay = {}, 0, 0
    for table, change in patch.pools.items():
        of_slots = shares[table][change.slots]
        own = (of_slots >= least) & (of_slots > 0)
        over = np.zeros(own.shape, bool)
        for other in later:
            if table in other.pools:
                over |= np.isin(change.slots, other.pools[table].slots)
        kept = ~own | over
        gone, stay = gone + np.count_nonzero(~kept), stay + np.count_nonzero(own & over)
        slots, old, new = (field[kept] for field in (change.slots, change.old, change.new))
        pools[table] = pool_change(slots, old, new, change.table_slots)
    scalars = {path: (change.old, change.new) for path, change in patch.scalars.items()}
    told = {"task": patch.task, "base": patch.base, "parent": patch.parent}
    return make_patch(pools, scalars, **told), int(gone), int(stay)
