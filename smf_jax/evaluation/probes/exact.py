"""Probes of facts: does greedy decoding give the answer, word for word?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from smf_jax.data.batching import Batch, encode_paraphrases, split_paraphrases
from smf_jax.data.facts import Fact, Paraphrase
from smf_jax.data.tokenizer import Tokenizer

T = TypeVar("T")


@dataclass(frozen=True)
class Probe:
    """Questions and all their accepted answers, encoded.

    Attributes:
      batch: one row for every question and accepted answer, ``(rows, t)``; its weights mark the
        answer and the end-of-text token.
      question: ``(rows,)`` int, the question that a row answers.
      questions: how many there are.
    """

    batch: Batch
    question: np.ndarray
    questions: int

    def __post_init__(self) -> None:
        if self.questions < 1:
            raise ValueError("a probe without questions measures nothing; give at least one fact")


def answer_probe(
    tokenizer: Tokenizer, facts: Sequence[Fact], paraphrases: str, length: int, aliases: int = 4
) -> Probe:
    """Encodes the questions about facts.

    Args:
      tokenizer: of the model.
      facts: what is asked about.
      paraphrases: ``"held_out"`` (unseen in training), ``"train"`` (seen).
      length: ``t``, places of a row.
      aliases: accepted answers tried per question, the taught one first; those that do not fit
        the length are left out.

    Returns:
      A `Probe`.
    """
    candidates: list[Paraphrase] = []
    question: list[int] = []
    asked = [paraphrase for fact in facts for paraphrase in getattr(fact, paraphrases)]
    accepted = [fact.answers for fact in facts for _ in getattr(fact, paraphrases)]
    for number, (paraphrase, answers) in enumerate(zip(asked, accepted, strict=True)):
        space = " " if paraphrase.answer.startswith(" ") else ""
        spoken = dict.fromkeys([paraphrase.answer, *(space + answer for answer in answers)])
        for answer in list(spoken)[:aliases]:
            candidates.append(Paraphrase(paraphrase.prompt, answer))
            question.append(number)
    taught = frozenset(asked)
    fits = [
        len(prompt) + len(answer) - 1 <= length or candidate in taught
        for candidate, (prompt, answer) in zip(
            candidates, split_paraphrases(tokenizer, candidates), strict=True
        )
    ]
    rows = [candidate for candidate, fit in zip(candidates, fits, strict=True) if fit]
    batch = encode_paraphrases(tokenizer, rows, length, prompt_loss_weight=0.0)
    return Probe(batch, np.asarray(question)[fits], len(asked))


def is_exact_match(logits: Float[Array, "b t vocabulary"], batch: Batch) -> Bool[Array, " b"]:
    """Whether greedy decoding from a row's prompt gives exactly its answer and then stops.

    Decoding yields the answer if and only if, given the answer's beginning, the likeliest token is
    each time the next one of it; so one forward pass decides it, without decoding.
    """
    right = jnp.argmax(logits, axis=-1) == batch.targets
    return jnp.all(right | (batch.weights == 0), axis=-1)


def exact_match(probe: Probe, right: np.ndarray) -> float:
    """Share of questions that got one of their accepted answers.

    Args:
      probe: the questions.
      right: ``(rows,)`` bool, as `is_exact_match` gives them.
    """
    answered = np.zeros(probe.questions, bool)
    np.logical_or.at(answered, probe.question, np.asarray(right, bool))
    return float(answered.mean())


def in_chunks(function: Callable[[Batch], T], batch: Batch, rows: int) -> list[T]:
    """Applies ``function`` to runs of ``rows`` rows, the last one filled up with pads.

    One shape, hence one compilation, serves probes of any size; results stay on the device so
    that the host does not wait between chunks.
    """
    total = batch.tokens.shape[0]
    missing = -total % rows
    filled = Batch(*(np.pad(field, ((0, missing), (0, 0))) for field in batch))
    return [
        function(Batch(*(field[start : start + rows] for field in filled)))
        for start in range(0, total, rows)
    ]
