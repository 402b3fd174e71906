"""Loss of given text: of worked answers to questions, and of a long text by a sliding window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from smf_jax.data.batching import Batch, empty_batch, pack_texts
from smf_jax.data.tokenizer import Ids, Tokenizer
from smf_jax.errors import blame_flag
from smf_jax.evaluation.continuations import count_cut, encode_pairs, pair_rows
from smf_jax.evaluation.probe import Metric, ProbeContext, ProbeKind
from smf_jax.evaluation.probes.open import PROMPT
from smf_jax.evaluation.scorer import Scorer
from smf_jax.params import Params

# Tokens of a window of a perplexity where the model takes so many (S26), and of packed text.
WINDOW, PACKED = 1024, 128
# More characters than a token has, so that a long file is not read to its end.
_CHARACTERS = 32


@dataclass(frozen=True)
class LossProbe:
    """Encoded text of which some tokens are scored."""

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("loss", False, ".3f", 1.0, headline=True),)
    batch: Batch  # ``(rows, t)``; tokens that weigh something are scored
    items: str  # what the rows are, such as ``windows``
    cut: int = 0  # rows whose prompt lost its beginning

    def measure(self, scorer: Scorer, params: Params) -> dict[str, float]:
        """``loss``: mean over all scored tokens, nats."""
        scores = scorer.score(params, self.batch)
        return {"loss": -float(scores.log_probability.sum()) / float(scores.tokens.sum())}

    @property
    def about(self) -> dict[str, int]:
        tokens = int(np.count_nonzero(self.batch.weights))
        return {self.items: len(self.batch.tokens), "tokens": tokens, "cut": self.cut}


class ProbabilityProbe(LossProbe):
    """Answers, of each its probability as a whole."""

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("probability", True, ".4f", 1.0, headline=True),
    )

    def measure(self, scorer: Scorer, params: Params) -> dict[str, float]:
        """``probability``: mean over answers of the product of their tokens' probabilities."""
        scores = scorer.score(params, self.batch)
        return {"probability": float(np.mean(np.exp(scores.log_probability)))}


class PerplexityProbe(LossProbe):
    """One text, all of it scored."""

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("perplexity", False, ".3f", 1.0, headline=True),
        Metric("loss", False, ".3f", 1.0),
    )

    def measure(self, scorer: Scorer, params: Params) -> dict[str, float]:
        """``perplexity = exp(loss)``, and ``loss``."""
        (loss,) = super().measure(scorer, params).values()
        return {"perplexity": math.exp(min(loss, 700.0)), "loss": loss}


def answer_loss_probe(
    tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], positions: int
) -> LossProbe:
    """`pair_rows` of prompts and, behind a space, answers, which are scored; without an ``eos``."""
    encoded = encode_pairs(tokenizer, pairs)
    batch = pair_rows(encoded, tokenizer.pad, positions)
    return LossProbe(batch, "items", cut=count_cut(encoded, positions))


def perplexity_probe(
    tokenizer: Tokenizer, text: str, window: int, stride: int, limit: int | None = None
) -> PerplexityProbe:
    """Encodes a text as it stands, ``bos`` in front if any, and lays `sliding_windows` over it."""
    ids = tokenizer.encode_prompt(text)
    return PerplexityProbe(sliding_windows(ids, tokenizer.pad, window, stride, limit), "windows")


def sliding_windows(
    ids: Ids, pad: int, window: int, stride: int, limit: int | None = None
) -> Batch:
    """Windows over a text in which each token but the first is scored exactly once.

    Window ``i`` holds ``ids[i·stride : i·stride + window]``; the first scores all that it predicts,
    the others their last `stride` tokens, each with at least ``window - stride`` before it (S26:
    1,024 and 512). Of ``(windows, window)``, at most `limit`, the last place predicts nothing. A
    ValueError if window and stride do not fit each other, or the text has not two tokens.
    """
    if not 1 <= stride <= window - 1:
        raise ValueError(
            f"window={window}, stride={stride}: expected a stride of at least 1 and below the "
            "window, so that each scored token has one before it"
        )
    if len(ids) < 2:
        raise ValueError(f"the text has {len(ids)} tokens; a perplexity needs at least 2")
    count = 1 + max(0, -(-(len(ids) - window) // stride))
    count = count if limit is None else min(count, limit)
    batch = empty_batch(count, window, pad)
    for row in range(count):
        start = row * stride
        part = np.asarray(ids[start : start + window], np.int32)
        # The first id after those that the window before has scored.
        first = start - stride + window if row else 1
        batch.tokens[row, : len(part)] = part
        batch.valid[row, : len(part)] = True
        batch.targets[row, : len(part) - 1] = part[1:]
        batch.weights[row, first - start - 1 : len(part) - 1] = 1
    return batch


def read_packed(source: str, using: ProbeContext) -> LossProbe:
    """Reads texts and cuts them into windows of kind ``text``."""
    window = min(PACKED, using.positions)
    texts = using.reader.texts(source, "probes")
    limit = None if using.options.limit is None else using.options.limit * window
    return LossProbe(pack_texts(using.tokenizer, texts, window, limit), "windows")


def _read_answers(source: str, using: ProbeContext) -> LossProbe:
    questions = using.reader.open_questions(source, "probes")[: using.options.limit]
    pairs = [(PROMPT.format(question.text), f" {question.answers[0]}") for question in questions]
    return answer_loss_probe(using.tokenizer, pairs, using.positions)


def _read_probability(source: str, using: ProbeContext) -> ProbabilityProbe:
    return ProbabilityProbe(**vars(_read_answers(source, using)))


def _read_whole(source: str, using: ProbeContext) -> PerplexityProbe:
    options, limit = using.options, using.options.limit
    window = options.window or min(WINDOW, using.positions)
    if window > using.positions:
        raise ValueError(
            f"--ppl_window={window} is more than the model's {using.positions} positions; lower it"
        )
    stride = options.stride or window // 2
    with blame_flag(f"--ppl_window={window}, --ppl_stride={stride}: "):
        characters = -1 if limit is None else _CHARACTERS * (window + limit * stride)
        text = using.reader.whole_text(source, "probes", characters)
        return perplexity_probe(using.tokenizer, text, window, stride, limit)


TEXT = ProbeKind("text", LossProbe, read_packed)
GSM8K = ProbeKind("gsm8k", LossProbe, _read_answers)
PROBABILITY = ProbeKind("probability", ProbabilityProbe, _read_probability)
PPL = ProbeKind("ppl", PerplexityProbe, _read_whole)
