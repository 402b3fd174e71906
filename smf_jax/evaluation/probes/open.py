"""Open questions, answered by greedy decoding: exact match and F1 over all accepted answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from smf_jax.data.facts import Question
from smf_jax.data.tokenizer import Ids, Tokenizer
from smf_jax.evaluation.normalisation import exact_score, f1_score, is_unspaced
from smf_jax.evaluation.probe import Metric, ProbeContext, ProbeKind
from smf_jax.evaluation.scorer import Scorer, answer_texts
from smf_jax.params import Params
from smf_jax.progress import say

PROMPT = "Question: {}\nAnswer:"
# An answer ends with its line.
END = "\n"


@dataclass(frozen=True)
class OpenProbe:
    """Encoded open questions."""

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("f1", headline=True), Metric("exact"))
    tokenizer: Tokenizer  # of the model
    prompts: tuple[Ids, ...]  # ids of every prompt
    answers: tuple[tuple[str, ...], ...]  # all accepted answers of every question
    steps: int  # tokens of an answer at most

    def predict(self, scorer: Scorer, params: Params) -> list[str]:
        """What a model answers: the first line of its greedy continuation."""
        texts = answer_texts(scorer, params, self.tokenizer, self.prompts, self.steps, [END])
        return [text.strip() for text in texts]

    def measure(self, scorer: Scorer, params: Params) -> dict[str, float]:
        """Mean ``f1`` and ``exact`` match, 0 to 1."""
        pairs = list(zip(self.predict(scorer, params), self.answers, strict=True))
        scores = {"f1": f1_score, "exact": exact_score}
        return {
            name: float(np.mean([score(*pair) for pair in pairs])) for name, score in scores.items()
        }

    @property
    def about(self) -> dict[str, int]:
        # Of these, some answers are in scripts without spaces, of which characters are compared.
        count = sum(any(map(is_unspaced, answers)) for answers in self.answers)
        return {"items": len(self.prompts)} | ({"by_character": count} if count else {})


def open_probe(
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    positions: int,
    shots: int = 0,
    steps: int = 32,
    chat: bool = False,
) -> OpenProbe:
    r"""Puts questions into prompts, ``Question: {question}\nAnswer:``.

    The first `shots` are shown, each with its first answer, before every other one and are not
    asked. With `chat` the prompt is what the user says in the tokenizer's chat template, behind
    the earlier turns of a question that is a conversation. A ValueError if no question is left to
    ask, a prompt does not fit, or there is no template.
    """
    if shots < 0 or steps < 1:
        raise ValueError(f"shots={shots}, steps={steps}: expected at least 0 and at least 1")
    shown, asked = questions[:shots], questions[shots:]
    if not asked:
        raise ValueError(
            f"shots={shots} of {len(questions)} questions leaves none to ask: give more questions "
            "or fewer shots"
        )
    prompts = prompts_of(tokenizer, shown, asked, chat)
    longest = max(map(len, prompts))
    if longest + steps > positions:
        question = asked[next(i for i, ids in enumerate(prompts) if len(ids) == longest)]
        raise ValueError(
            f"the prompt of {question.text!r} takes {longest} tokens, and its answer up to {steps}:"
            f" more than the model's {positions} positions; leave it out, give fewer shots or "
            "shorter answers"
        )
    return OpenProbe(tokenizer, prompts, tuple(question.answers for question in asked), steps)


def prompts_of(
    tokenizer: Tokenizer, shown: Sequence[Question], asked: Sequence[Question], chat: bool = False
) -> tuple[Ids, ...]:
    """The ids of a prompt for each question asked, behind those shown with their first answers."""
    before = "".join(PROMPT.format(q.text) + f" {q.answers[0]}\n\n" for q in shown)
    if chat:
        return tuple(tokenizer.encode_chat(_messages(question, before)) for question in asked)
    texts = [before + PROMPT.format(question.text) for question in asked]
    return tuple(tokenizer.begin + ids for ids in tokenizer.encode_batch(texts))


def _messages(question: Question, before: str) -> list[dict[str, str]]:
    """What a chat template is given: the last turn asks, turns before it stand as they are."""
    *earlier, (role, words) = question.turns or [("user", question.text)]
    turns = [*earlier, (role, before + PROMPT.format(words))]
    return [{"role": role, "content": said} for role, said in turns]


def _read(source: str, using: ProbeContext) -> OpenProbe:
    shots, limit = using.options.shots, using.options.limit
    questions = using.reader.open_questions(source, "probes")
    probe = open_probe(
        using.tokenizer,
        questions[: None if limit is None else shots + limit],
        using.positions,
        shots,
        using.options.answer_tokens,
        using.options.chat,
    )
    if count := probe.about.get("by_character"):
        asked = f"{count} of {len(probe.prompts)} questions"
        say(f"{source}: {asked} have answers in scripts without spaces, compared by character")
    return probe


F1 = ProbeKind("f1", OpenProbe, _read)
