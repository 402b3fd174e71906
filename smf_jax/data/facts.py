"""The records of what a model is taught and asked: wordings, facts and tasks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple


class Wording(NamedTuple):
    """One way to say a fact: the text is ``prompt + answer``.

    The answer starts with the space that divides it from the prompt, so a prompt never ends in
    one: with byte-level tokenizers a word and the space before it are a single token.
    """

    prompt: str
    answer: str


@dataclass(frozen=True)
class Question:
    """A question as it stands and every accepted answer; the first is the one to show or teach."""

    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """A subject, a relation and an object, in the wordings it is taught and asked in."""

    # Unique among the facts that a model knows at one time; a changed fact keeps its name.
    name: str
    # The group of facts with the same wordings, such as ``person.job``; empty when unknown.
    relation: str
    # Wordings that training sees.
    trained: tuple[Wording, ...]
    # Wordings that only evaluation sees ("unseen wording"); the probe for the fact.
    asked: tuple[Wording, ...]
    # Every accepted answer, without the dividing space; the first is the one that is taught.
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """One element of the stream: facts that are learned together."""

    name: str
    facts: tuple[Fact, ...]


def trained_wordings(facts: Iterable[Fact]) -> tuple[Wording, ...]:
    """Every trained wording of every fact, fact by fact."""
    return tuple(wording for fact in facts for wording in fact.trained)


def first_wordings(facts: Iterable[Fact], wordings: str, count: int) -> tuple[Fact, ...]:
    """The facts with only the first few of their wordings of a kind, trained or asked."""
    return tuple(replace(fact, **{wordings: getattr(fact, wordings)[:count]}) for fact in facts)


def rotate_wordings(
    wordings: tuple[Wording, ...], turn: int, trained: int, asked: int
) -> tuple[tuple[Wording, ...], tuple[Wording, ...]]:
    """Divide one fact's wordings into trained and asked ones, other ones at every turn.

    The asked block starts at ``turn * asked`` in the circle of wordings and the trained ones
    follow it. With exactly ``trained + asked`` wordings, what one fact is asked in its neighbour
    is trained in: an unseen wording is then new for the fact, not for the model.

    Args:
        wordings: All wordings of the fact, in an order shared by the facts of its relation.
        turn: The place of the fact among the facts of its relation.
        trained: How many wordings to train.
        asked: How many wordings to ask, disjoint from the trained ones.

    Returns:
        The trained and the asked wordings.

    Raises:
        ValueError: If there are fewer than ``trained + asked`` wordings.
    """
    check_wording_counts(trained, asked, len(wordings))
    start = turn * asked % len(wordings)
    circle = wordings[start:] + wordings[:start]
    return circle[asked : asked + trained], circle[:asked]


def check_wording_counts(trained: int, asked: int, available: int) -> None:
    """Raise a ``ValueError`` unless the wordings suffice for a trained and an asked share."""
    for name, value in (("trained_wordings", trained), ("asked_wordings", asked)):
        if value < 1:
            raise ValueError(f"{name}={value}: expected at least 1 wording")
    if trained + asked > available:
        raise ValueError(
            f"trained_wordings={trained} and asked_wordings={asked} need {trained + asked} "
            f"wordings, but a relation has {available}: lower one of the two"
        )
