"""Probes of facts: does greedy decoding give the answer, word for word?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from smf_jax.data.batching import (
    Batch,
    concatenate,
    encode_paraphrases,
    needed_length,
    split_paraphrases,
)
from smf_jax.data.facts import Fact, Paraphrase, Question, first_paraphrases
from smf_jax.data.tokenizer import Tokenizer
from smf_jax.evaluation.continuations import row_scores
from smf_jax.evaluation.probe import Metric, ProbeContext, ProbeKind
from smf_jax.evaluation.scorer import Scorer
from smf_jax.params import Params


@dataclass(frozen=True)
class ExactProbe:
    """Questions and all their accepted answers, encoded."""

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("exact", headline=True),)
    batch: Batch  # ``(rows, t)``, one for every question and answer; ``eos`` weighs too
    question: np.ndarray  # ``(rows,)`` int, the question that a row answers
    questions: int  # how many there are

    def __post_init__(self) -> None:
        if self.questions < 1:
            raise ValueError("a probe without questions measures nothing; give at least one fact")

    def measure(self, scorer: Scorer, params: Params) -> dict[str, float]:
        """Share of the questions whose answer is decoded greedily, word for word."""
        return {"exact": exact_match(self, scorer.score(params, self.batch).greedy)}

    @property
    def about(self) -> dict[str, int]:
        return {"items": self.questions}


def answer_probe(
    tokenizer: Tokenizer, facts: Sequence[Fact], paraphrases: str, length: int, aliases: int = 4
) -> ExactProbe:
    """Encodes the questions about facts in rows of ``length`` places.

    ``paraphrases`` are ``"held_out"`` (unseen in training) or ``"train"``. So many ``aliases``,
    accepted answers, are tried per question, the taught one first, if they fit the length.
    """
    asked = [(each, fact.answers) for fact in facts for each in getattr(fact, paraphrases)]
    return _encode(tokenizer, asked, length, aliases)


def question_probe(
    tokenizer: Tokenizer, questions: Sequence[Question], length: int, aliases: int = 4
) -> ExactProbe:
    """Encodes questions as they stand, in no paraphrase, else as `answer_probe` does."""
    asked = [(as_it_stands(question), question.answers) for question in questions]
    return _encode(tokenizer, asked, length, aliases)


def as_it_stands(question: Question) -> Paraphrase:
    """A question and its first answer, with nothing around them but the space between."""
    return Paraphrase(question.text, f" {question.answers[0]}")


def _encode(
    tokenizer: Tokenizer,
    asked: Sequence[tuple[Paraphrase, tuple[str, ...]]],
    length: int,
    aliases: int,
) -> ExactProbe:
    """A row for each paraphrase with one of its accepted answers."""
    candidates: list[Paraphrase] = []
    question: list[int] = []
    for number, ((prompt, taught), answers) in enumerate(asked):
        space = " " if taught.startswith(" ") else ""
        spoken = list(dict.fromkeys([taught, *(space + answer for answer in answers)]))[:aliases]
        candidates += [Paraphrase(prompt, answer) for answer in spoken]
        question += [number] * len(spoken)
    always = {paraphrase for paraphrase, _ in asked}
    pairs = split_paraphrases(tokenizer, candidates)
    fits = [
        len(prompt + answer) - 1 <= length or candidate in always
        for candidate, (prompt, answer) in zip(candidates, pairs, strict=True)
    ]
    rows = [candidate for candidate, fit in zip(candidates, fits, strict=True) if fit]
    batch = encode_paraphrases(tokenizer, rows, length, prompt_loss_weight=0.0)
    return ExactProbe(batch, np.asarray(question)[fits], len(asked))


def is_exact_match(logits: Float[Array, "b t vocabulary"], batch: Batch) -> Bool[Array, " b"]:
    """Whether greedy decoding from a row's prompt gives exactly its answer and then stops.

    One forward pass tells: given the answer so far, the likeliest token must be its next one.
    """
    return row_scores(logits, batch).greedy


def exact_matches(
    logits: Float[Array, "b t vocabulary"], batch: Batch, sequences: int
) -> Bool[Array, "b s"]:
    """The same of each of the ``sequences`` of a row, which ``valid`` numbers from 1."""
    wrong = (batch.weights > 0) & (jnp.argmax(logits, axis=-1) != batch.targets)
    numbers = jnp.expand_dims(jnp.arange(1, sequences + 1), (0, 1))
    own = jnp.expand_dims(batch.valid.astype(jnp.int32), 2) == numbers
    return ~jnp.any(jnp.expand_dims(wrong, 2) & own, axis=1)


def exact_match(probe: ExactProbe, right: np.ndarray) -> float:
    """Share of questions with an accepted answer among the ``right`` rows of `is_exact_match`."""
    answered = np.zeros(probe.questions, bool)
    np.logical_or.at(answered, probe.question, np.asarray(right, bool))
    return float(answered.mean())


def all_rows(probes: Sequence[ExactProbe]) -> Batch:
    """The rows of several probes, one after another."""
    return concatenate([probe.batch for probe in probes])


def answered_shares(probes: Sequence[ExactProbe], right: Bool[np.ndarray, " rows"]) -> list[float]:
    """The share of questions that each probe has right, by the rows of all, one after another."""
    ends = np.cumsum([len(probe.question) for probe in probes])
    parts = np.split(right, ends[:-1])
    return [exact_match(*of) for of in zip(probes, parts, strict=True)]


def asked_once(tokenizer: Tokenizer, facts: tuple[Fact, ...]) -> ExactProbe:
    """Every fact asked in one paraphrase that it was not taught in."""
    once = first_paraphrases(facts, "held_out", 1)
    length = needed_length(tokenizer, [paraphrase for fact in once for paraphrase in fact.held_out])
    return answer_probe(tokenizer, once, "held_out", length)


def _read(source: str, using: ProbeContext) -> ExactProbe:
    facts = using.reader.questions(source, "probes")[: using.options.limit]
    return asked_once(using.tokenizer, facts)


EXACT = ProbeKind("exact", ExactProbe, _read)
