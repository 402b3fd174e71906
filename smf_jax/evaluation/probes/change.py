"""What a model says otherwise than its base: answers that changed, predictions that moved.

These probes compare with the base, so they are shown it first (`refer_to_base`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from smf_jax.data.batching import Batch, empty_batch
from smf_jax.data.tokenizer import Ids
from smf_jax.evaluation.probe import Metric, ProbeContext, ProbeKind
from smf_jax.evaluation.probes import open as open_questions
from smf_jax.evaluation.probes.open import PROMPT, OpenProbe
from smf_jax.evaluation.probes.text import read_packed
from smf_jax.evaluation.scorer import Scorer
from smf_jax.params import Params


@dataclass
class SameProbe:
    """Open questions, right or wrong: does greedy decoding say what the base said?"""

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("same", headline=True),)
    asked: OpenProbe
    _before: list[str] = field(default_factory=list)  # what the base answers

    def refer_to(self, scorer: Scorer, base: Params) -> None:
        """Asks the base."""
        self._before = self.asked.predict(scorer, base)

    def measure(self, scorer: Scorer, params: Params) -> dict[str, float]:
        """``same``: share of the questions whose whole answer is that of the base."""
        if not self._before:
            raise RuntimeError("SameProbe: call refer_to with the base before measure")
        now = self.asked.predict(scorer, params)
        return {"same": float(np.mean([a == b for a, b in zip(self._before, now, strict=True)]))}

    @property
    def about(self) -> dict[str, int]:
        return {"items": len(self.asked.prompts)}


@dataclass
class KlProbe:
    """Text of whose every token the base's prediction is compared."""

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("kl", False, ".4f", 1.0, headline=True),)
    batch: Batch  # ``(rows, t)``; the predictions at places of weight count
    items: str  # what the rows are, such as ``windows``
    _base: Params | None = None

    def refer_to(self, scorer: Scorer, base: Params) -> None:
        """Keeps the base's leaves, not its logits: those of a long text fill any memory."""
        del scorer
        self._base = base

    def measure(self, scorer: Scorer, params: Params) -> dict[str, float]:
        """``kl``: mean of ``KL(base ‖ model)`` over tokens, nats."""
        if self._base is None:
            raise RuntimeError("KlProbe: call refer_to with the base before measure")
        total = scorer.divergence(self._base, params, self.batch).sum()
        return {"kl": float(total) / np.count_nonzero(self.batch.weights)}

    @property
    def about(self) -> dict[str, int]:
        tokens = int(np.count_nonzero(self.batch.weights))
        return {self.items: len(self.batch.tokens), "tokens": tokens}


def prompt_rows(prompts: Sequence[Ids], pad: int) -> Batch:
    """One row ``(rows, t)`` for each prompt; all of its places count, the last one too."""
    batch = empty_batch(len(prompts), max(map(len, prompts)), pad)
    for row, ids in enumerate(prompts):
        batch.tokens[row, : len(ids)] = ids
        batch.weights[row, : len(ids)] = 1
        batch.valid[row, : len(ids)] = True
    return batch


def _read_same(source: str, using: ProbeContext) -> SameProbe:
    return SameProbe(open_questions.F1.read(source, using))  # pyright: ignore[reportArgumentType]


def _read_text(source: str, using: ProbeContext) -> KlProbe:
    return KlProbe(read_packed(source, using).batch, "windows")


def _read_prompts(source: str, using: ProbeContext) -> KlProbe:
    asked = using.reader.open_questions(source, "probes")[: using.options.limit]
    prompts = [using.tokenizer.encode_prompt(PROMPT.format(question.text)) for question in asked]
    if long := next((ids for ids in prompts if len(ids) > using.positions), None):
        raise ValueError(
            f"a prompt takes {len(long)} tokens, the model at most {using.positions}; leave it out"
        )
    return KlProbe(prompt_rows(prompts, using.tokenizer.pad), "items")


SAME = ProbeKind("same", SameProbe, _read_same)
KL = ProbeKind("kl", KlProbe, _read_text)
KL_PROMPTS = ProbeKind("kl_prompts", KlProbe, _read_prompts)
