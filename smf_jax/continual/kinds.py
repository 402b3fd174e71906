"""Kinds of question: the facts of a stream asked reversed, in a cloze, in a document, and so on.

Which kinds there are is the stream's to say, in the field ``asked`` of its records. None of their
questions is ever taught; 2607.11020 calls the mean over its five kinds *strict*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from smf_jax.continual.results import IN_CONTEXT, KIND, OF_BASE, STRICT
from smf_jax.data.batching import needed_length
from smf_jax.data.facts import Fact, Task
from smf_jax.data.tokenizer import Tokenizer
from smf_jax.evaluation.probes.exact import ExactProbe, as_it_stands, question_probe

# By kind, a share of exact answers for each task; ``None`` where a prompt is too long.
Shares = Mapping[str, Sequence[float | None]]


def kinds_of(facts: Sequence[Fact]) -> tuple[str, ...]:
    """The kinds in which facts are asked, in the order in which they appear; none without any.

    A ValueError names a fact that is not asked in one of them, as a share over some of the facts
    could not be compared, and a kind whose name is another's or ends as other keys of a row do.
    """
    having = {asked.kind: fact.name for fact in reversed(facts) for asked in fact.asked}
    kinds = tuple(dict.fromkeys(asked.kind for fact in facts for asked in fact.asked))
    for kind in kinds:
        if kind == STRICT or kind.endswith((OF_BASE, IN_CONTEXT)):
            raise ValueError(
                f"{having[kind]} is asked in the kind {kind!r}: {STRICT} and what ends in "
                f"{OF_BASE} or {IN_CONTEXT} are keys of results.jsonl; rename it"
            )
        for fact in facts:
            if not fact.of_kind(kind):
                raise ValueError(
                    f"{fact.name} has no question of kind {kind!r}, in which {having[kind]} is "
                    "asked: give all facts of the stream the same kinds in 'asked', or take it out"
                )
    return kinds


def encode_kinds(
    tokenizer: Tokenizer, positions: int, tasks: Sequence[Task]
) -> dict[str, tuple[ExactProbe, ...]]:
    """By kind, for each task the questions about its facts, in rows of one length a kind.

    A document is longer than what is taught, so that lengths are the kinds' own. A ValueError as by
    `kinds_of`, or if a question does not fit into so many ``positions``.
    """
    found = {}
    for kind in kinds_of([fact for task in tasks for fact in task.facts]):
        asked = [[q for fact in task.facts for q in fact.of_kind(kind)] for task in tasks]
        length = needed_length(tokenizer, [as_it_stands(q) for of_task in asked for q in of_task])
        if length > positions:
            raise ValueError(
                f"the longest question of kind {kind!r} takes {length} tokens, the model at most "
                f"{positions}; leave out long questions"
            )
        found[kind] = tuple(question_probe(tokenizer, of_task, length) for of_task in asked)
    return found


def kind_columns(now: Shares, base: Shares, told: Shares, task: int) -> dict[str, float | None]:
    """The columns of the kinds after a task, each with that of the base; none without kinds.

    ``now`` and ``base`` are shares by task; means over the tasks so far are told. ``told`` are the
    base's with a task's facts in its prompt, of which this task's are told; empty if not measured.
    """
    so_far = slice(task + 1)
    return {
        **_columns({kind: _mean(now[kind][so_far]) for kind in now}),
        **_columns({kind: _mean(base[kind][so_far]) for kind in now}, OF_BASE),
        **_columns({kind: told[kind][task] for kind in told}, IN_CONTEXT),
    }


def _columns(shares: Mapping[str, float | None], ending: str = "") -> dict[str, float | None]:
    """A column for each kind, and ``strict``, their mean."""
    if not shares:
        return {}
    columns = {f"{KIND}{kind}{ending}": share for kind, share in shares.items()}
    return columns | {STRICT + ending: _mean(list(shares.values()))}


def _mean(shares: Sequence[float | None]) -> float | None:
    """Their mean, ``None`` if one of them was not measured."""
    measured = [share for share in shares if share is not None]
    return float(np.mean(measured)) if len(measured) == len(shares) else None
