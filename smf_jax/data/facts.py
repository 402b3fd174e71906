"""The records of what a model is taught and asked: paraphrases, facts and tasks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple


class Paraphrase(NamedTuple):
    """One way to say a fact: the text is ``prompt + answer``.

    The dividing space begins the answer: to byte-level tokenizers it is one token with the word.
    """

    prompt: str
    answer: str


@dataclass(frozen=True)
class Question:
    """A question as it stands and every accepted answer; the first is the one to show or teach."""

    text: str
    answers: tuple[str, ...]
    # The role and the words of each turn, where the text tells a conversation.
    turns: tuple[tuple[str, str], ...] = ()


class Asked(NamedTuple):
    """A further question about a fact, which is asked as it stands and never taught."""

    kind: str  # such as ``reversed``; the facts of a stream are asked in the same kinds
    question: Question


@dataclass(frozen=True)
class Fact:
    """A subject, a relation and an object, in the paraphrases it is taught and asked in."""

    name: str  # unique among the facts that a model knows at one time; a changed fact keeps it
    relation: str  # the facts with the same paraphrases, such as ``person.job``; empty when unknown
    train: tuple[Paraphrase, ...]  # paraphrases that training sees
    held_out: tuple[Paraphrase, ...]  # those that only evaluation sees: the fact's probe
    answers: tuple[str, ...]  # all accepted ones, without the dividing space; the first is taught
    question: Question | None = None  # as it stands, ``None`` for what is no question of a file
    asked: tuple[Asked, ...] = ()  # in other kinds of question; only evaluation sees them

    def of_kind(self, kind: str) -> tuple[Question, ...]:
        """The questions of a kind, none if it is not asked in it."""
        return tuple(asked.question for asked in self.asked if asked.kind == kind)


@dataclass(frozen=True)
class Task:
    """One element of the stream: facts that are learned together."""

    name: str
    facts: tuple[Fact, ...]


def require_at_least(least: int, **counts: int) -> None:
    """Refuse counts that are too small; the ``ValueError`` names the first of them."""
    for name, count in counts.items():
        if count < least:
            raise ValueError(f"{name}={count}: expected at least {least}")


def train_paraphrases(facts: Iterable[Fact]) -> tuple[Paraphrase, ...]:
    """Every trained paraphrase of every fact, fact by fact."""
    return tuple(paraphrase for fact in facts for paraphrase in fact.train)


def first_paraphrases(facts: Iterable[Fact], paraphrases: str, count: int) -> tuple[Fact, ...]:
    """The facts with only the first few of their paraphrases of a kind, trained or asked."""
    return tuple(
        replace(fact, **{paraphrases: getattr(fact, paraphrases)[:count]}) for fact in facts
    )


def stream_of(
    facts: Sequence[Fact],
    tasks: int,
    facts_per_task: int,
    seed: int,
    pick: Callable[[Sequence[Fact], int], Sequence[Fact]] | None = None,
) -> tuple[Task, ...]:
    """Deal facts into the tasks of a stream, in an order given by the seed.

    Facts that ask the same are dealt once, as two answers would undo each other. ``pick`` chooses
    as many of the ordered facts as are needed, keeping the order. A longer stream begins with the
    tasks of a shorter one. A ValueError if a count is below 1 or facts are lacking.
    """
    require_at_least(1, tasks=tasks, facts_per_task=facts_per_task)
    by_prompts = {frozenset(w.prompt for w in (*f.train, *f.held_out)): f for f in reversed(facts)}
    distinct = list(by_prompts.values())
    needed = tasks * facts_per_task
    if len(distinct) < needed:
        raise ValueError(
            f"tasks={tasks} of facts_per_task={facts_per_task} need {needed} facts, but the "
            f"stream has {len(distinct)} different ones: lower one of the two or give more facts"
        )
    random.Random(f"{seed}/stream").shuffle(distinct)
    distinct = distinct if pick is None else pick(distinct, needed)
    return tuple(
        Task(f"task_{number:02d}", tuple(distinct[start : start + facts_per_task]))
        for number, start in enumerate(range(0, needed, facts_per_task))
    )


def rotate_paraphrases(
    paraphrases: tuple[Paraphrase, ...], turn: int, train: int, held_out: int
) -> tuple[tuple[Paraphrase, ...], tuple[Paraphrase, ...]]:
    """Divide one fact's paraphrases into trained and asked ones, other ones at every turn.

    The asked block starts at ``turn * held_out`` in the circle of paraphrases, and the trained ones
    follow; ``turn`` is the fact's place in its relation. With exactly ``train + held_out`` (fewer
    are a ValueError), it is asked in what a neighbour is trained in: new for it, not the model.
    """
    check_paraphrase_counts(train, held_out, len(paraphrases))
    start = turn * held_out % len(paraphrases)
    circle = paraphrases[start:] + paraphrases[:start]
    return circle[held_out : held_out + train], circle[:held_out]


def check_paraphrase_counts(train: int, held_out: int, available: int) -> None:
    """Raise a ``ValueError`` unless the paraphrases suffice for a trained and an asked share."""
    require_at_least(1, train_paraphrases=train, held_out_paraphrases=held_out)
    if train + held_out > available:
        raise ValueError(
            f"train_paraphrases={train} and held_out_paraphrases={held_out} need "
            f"{train + held_out} paraphrases, but a relation has {available}: lower one of the two"
        )
