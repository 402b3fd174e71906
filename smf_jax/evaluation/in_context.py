"""A ceiling that is no method: the facts of a task stand in the prompt, and nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence

from smf_jax.data.facts import Fact, Question, first_paraphrases
from smf_jax.data.tokenizer import Tokenizer
from smf_jax.evaluation.probes.open import END, OpenProbe


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


def unseen_questions(facts: Sequence[Fact], count: int) -> tuple[Question, ...]:
    """The first ``count`` paraphrases of each fact that it is not trained in, as questions."""
    return tuple(
        Question(paraphrase.prompt, fact.answers)
        for fact in first_paraphrases(facts, "held_out", count)
        for paraphrase in fact.held_out
    )
