"""Open questions, answered by greedy decoding: exact match and F1 over all accepted answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from smf_jax.data.facts import Question
from smf_jax.data.tokenizer import Tokenizer
from smf_jax.evaluation.continuations import Ids
from smf_jax.evaluation.normalisation import exact_score, f1_score
from smf_jax.evaluation.probe import Metric, ProbeContext, ProbeKind
from smf_jax.evaluation.scorer import Scorer
from smf_jax.params import Params

PROMPT = "Question: {}\nAnswer:"
# Divides the examples shown from each other and from the question.
BETWEEN = "\n\n"
# An answer ends with its line.
END = "\n"


@dataclass(frozen=True)
class OpenProbe:
    """Encoded open questions.

    Attributes:
      tokenizer: of the model.
      prompts: ids of every prompt.
      answers: all accepted answers of every question.
      steps: tokens of an answer at most.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("f1", headline=True), Metric("exact"))
    tokenizer: Tokenizer
    prompts: tuple[Ids, ...]
    answers: tuple[tuple[str, ...], ...]
    steps: int

    def predict(self, scorer: Scorer, params: Params) -> list[str]:
        """What a model answers: the first line of its greedy continuation."""
        stop = (*self.tokenizer.stops, *self.tokenizer.tokens_with(END))
        answers = scorer.answer(params, self.prompts, self.steps, stop)
        ends = frozenset(self.tokenizer.stops)
        # A token may hold a piece of the answer and the end of the line; one that ends the text
        # may be no special token, and is no part of the answer.
        kept = [ids[:-1] if ids[-1] in ends else ids for ids in answers]
        return [self.tokenizer.decode(ids).partition(END)[0].strip() for ids in kept]

    def measure(self, scorer: Scorer, params: Params) -> dict[str, float]:
        """Mean ``f1`` and ``exact`` match, 0 to 1."""
        predictions = self.predict(scorer, params)
        pairs = list(zip(predictions, self.answers, strict=True))
        return {
            "f1": float(np.mean([f1_score(*pair) for pair in pairs])),
            "exact": float(np.mean([exact_score(*pair) for pair in pairs])),
        }

    @property
    def about(self) -> dict[str, int]:
        """What to tell beside the means."""
        return {"items": len(self.prompts)}


def open_probe(
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    positions: int,
    shots: int = 0,
    steps: int = 32,
    chat: bool = False,
) -> OpenProbe:
    r"""Puts questions into prompts, ``Question: {question}\nAnswer:``.

    Args:
      tokenizer: of the model.
      questions: the first `shots` are shown, each with its first answer, before every other one
        and are not asked.
      positions: places that the model takes.
      shots: examples shown.
      steps: tokens of an answer at most.
      chat: whether the prompt is what the user says in the tokenizer's chat template.

    Raises:
      ValueError: if no question is left to ask, a prompt does not fit, or there is no template.
    """
    if shots < 0 or steps < 1:
        raise ValueError(f"shots={shots}, steps={steps}: expected at least 0 and at least 1")
    shown, asked = questions[:shots], questions[shots:]
    if not asked:
        raise ValueError(
            f"shots={shots} of {len(questions)} questions leaves none to ask: give more questions "
            "or fewer shots"
        )
    before = "".join(PROMPT.format(q.text) + f" {q.answers[0]}" + BETWEEN for q in shown)
    texts = [before + PROMPT.format(question.text) for question in asked]
    prompts = tuple(_encode(tokenizer, text, chat) for text in texts)
    longest = max(map(len, prompts))
    if longest + steps > positions:
        question = asked[max(range(len(prompts)), key=lambda place: len(prompts[place]))]
        raise ValueError(
            f"the prompt of {question.text!r} takes {longest} tokens, and its answer up to {steps}:"
            f" more than the model's {positions} positions; leave it out, give fewer shots or "
            "shorter answers"
        )
    return OpenProbe(tokenizer, prompts, tuple(question.answers for question in asked), steps)


def _encode(tokenizer: Tokenizer, text: str, chat: bool) -> Ids:
    if not chat:
        return tokenizer.encode_prompt(text)
    return tokenizer.encode_chat([{"role": "user", "content": text}])


def _read(source: str, using: ProbeContext) -> OpenProbe:
    options = using.options
    limit = None if options.limit is None else options.shots + options.limit
    questions = using.reader.open_questions(source, "probes")[:limit]
    return open_probe(
        using.tokenizer,
        questions,
        using.positions,
        options.shots,
        options.answer_tokens,
        options.chat,
    )


F1 = ProbeKind("f1", OpenProbe, _read)
