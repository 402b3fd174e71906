"""Multiple choice by likelihood: which ending does a model find the likeliest?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Int

from smf_jax.data.batching import Batch
from smf_jax.data.multiple_choice import Choice, read_hellaswag, read_medmcqa
from smf_jax.data.readers import existing
from smf_jax.data.tokenizer import Tokenizer
from smf_jax.evaluation.continuations import count_cut, encode_pairs, pair_rows
from smf_jax.evaluation.probe import Metric, ProbeContext, ProbeKind
from smf_jax.evaluation.scorer import Scorer
from smf_jax.params import Params

# Stands between a prompt and an ending; scored with the ending, and not a part of its length.
DELIMITER = " "


@dataclass(frozen=True)
class ChoiceProbe:
    """Encoded items of ``c`` endings each."""

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("acc_norm", headline=True),
        *map(Metric, ("acc", "acc_bytes", "acc_tokens")),
    )
    batch: Batch  # a row for each item and ending, ``(items · c, t)``
    characters: Int[np.ndarray, "items c"]  # ``(items, c)``, the length of every ending
    utf8_bytes: Int[np.ndarray, "items c"]  # ``(items, c)``, the same in UTF-8
    right: Int[np.ndarray, " items"]  # ``(items,)``, the place of the right ending
    cut: int  # rows whose prompt lost its beginning
    joined: int = 0  # rows whose ending grew together with its prompt, which score 0

    def measure(self, scorer: Scorer, params: Params) -> dict[str, float]:
        """Shares of items whose right ending has the highest score; ties go to the first.

        ``acc_norm`` divides the log-probability by the ending's characters, as the metric of this
        name of lm-evaluation-harness does, ``acc_bytes`` by its bytes, ``acc_tokens`` by its
        tokens; ``acc`` takes it as it is.
        """
        scores = scorer.score(params, self.batch)
        shape = self.characters.shape
        total = scores.log_probability.reshape(shape)
        lengths = {
            "acc_norm": self.characters,
            "acc": np.ones(shape),
            "acc_bytes": self.utf8_bytes,
            "acc_tokens": np.maximum(scores.tokens, 1).reshape(shape),
        }
        return {
            name: float(np.mean(np.argmax(total / length, axis=1) == self.right))
            for name, length in lengths.items()
        }

    @property
    def about(self) -> dict[str, int]:
        joined = {"joined": self.joined} if self.joined else {}
        return {"items": len(self.right), "cut": self.cut, **joined}


def choice_probe(tokenizer: Tokenizer, items: Sequence[Choice], positions: int) -> ChoiceProbe:
    """Encodes items of equally many endings, a row for each: ``[bos] prompt ending``.

    A ValueError if there is no item or an ending does not fit.
    """
    if not items:
        raise ValueError("items=(): a probe without items measures nothing; give at least one")
    texts = [(item.prompt, DELIMITER + end) for item in items for end in item.endings]
    pairs = encode_pairs(tokenizer, texts)
    return ChoiceProbe(
        batch=pair_rows(pairs, tokenizer.pad, positions),
        characters=np.array([[len(end) for end in item.endings] for item in items]),
        utf8_bytes=np.array([[len(end.encode()) for end in item.endings] for item in items]),
        right=np.array([item.right for item in items]),
        cut=count_cut(pairs, positions),
        joined=sum(not follows for _, follows in pairs),
    )


def _kind(name: str, read_items: Callable[[Path], tuple[Choice, ...]]) -> ProbeKind:
    def read(source: str, using: ProbeContext) -> ChoiceProbe:
        items = read_items(existing(source, "probes"))[: using.options.limit]
        return choice_probe(using.tokenizer, items, using.positions)

    return ProbeKind(name, ChoiceProbe, read)


HELLASWAG = _kind("hellaswag", read_hellaswag)
MEDMCQA = _kind("medmcqa", read_medmcqa)
