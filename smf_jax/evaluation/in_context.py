"""A ceiling that is no method: the facts of a task stand in the prompt, and nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from smf_jax.data.facts import Fact, Question, first_paraphrases
from smf_jax.data.tokenizer import Tokenizer
from smf_jax.evaluation.normalisation import exact_score
from smf_jax.evaluation.probes.open import END, OpenProbe
from smf_jax.evaluation.scorer import Scorer
from smf_jax.params import Params


def in_context_probe(
    tokenizer: Tokenizer,
    facts: Sequence[Fact],
    asked: Sequence[Question],
    positions: int,
    steps: int,
) -> OpenProbe | None:
    """Facts in a paraphrase that they are trained in, then a question about one of them.

    Each is ``asked`` as it stands behind all facts in their order, with a blank line between
    (2607.11020's in-context line). ``None`` where a prompt and an answer of ``steps`` tokens need
    more than ``positions``: so many facts fit into no prompt.
    """
    told = "".join(f"{fact.train[0].prompt}{fact.train[0].answer}{END}{END}" for fact in facts)
    prompts = tuple(tokenizer.encode_prompt(told + question.text) for question in asked)
    if max(map(len, prompts)) + steps > positions:
        return None
    return OpenProbe(tokenizer, prompts, tuple(question.answers for question in asked), steps)


def exact_shares(
    scorer: Scorer, params: Params, probes: Sequence[OpenProbe | None]
) -> list[float | None]:
    """The share of exact answers, 0 to 1, of each probe about the same facts, ``None`` for none.

    They are asked at once: the facts before the questions are computed once, by one program.
    """
    asked = [probe for probe in probes if probe is not None]
    if not asked:
        return [None] * len(probes)
    joined = replace(
        asked[0],
        prompts=tuple(ids for probe in asked for ids in probe.prompts),
        answers=tuple(accepted for probe in asked for accepted in probe.answers),
    )
    right = map(exact_score, joined.predict(scorer, params), joined.answers)
    return [
        None if probe is None else float(np.mean([*islice(right, len(probe.prompts))]))
        for probe in probes
    ]


def unseen_questions(facts: Sequence[Fact], count: int) -> tuple[Question, ...]:
    """The first ``count`` paraphrases of each fact that it is not trained in, as questions."""
    return tuple(
        Question(paraphrase.prompt, fact.answers)
        for fact in first_paraphrases(facts, "held_out", count)
        for paraphrase in fact.held_out
    )
