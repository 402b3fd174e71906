"""Compiled scoring and greedy answering of one architecture; the leaves are an argument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from smf_jax.data.batching import Batch, in_chunks
from smf_jax.evaluation.continuations import Ids, RowScores, row_scores
from smf_jax.models.decoder import Decoder, plain_logits
from smf_jax.models.generate import generate, left_pad
from smf_jax.params import Params, unflatten

# Logits of a chunk: 1 GiB of float32.
_LOGITS = 2**28


class Scorer:
    """Scores rows of text and answers prompts, for any leaves of one architecture.

    A probe has one shape, so each takes one compilation, which all models of the architecture
    share.

    Attributes:
      model: the decoder.
      rows: how many rows run at once; fewer where their logits would not fit into 1 GiB.
    """

    def __init__(self, model: Decoder, rows: int = 128) -> None:
        """Prepares the functions; nothing is compiled yet."""
        if rows < 1:
            raise ValueError(f"rows={rows}: expected at least 1")
        self.model = model
        self.rows = rows
        logits = plain_logits(model)

        @jax.jit
        def score(params: Params, batch: Batch) -> RowScores:
            return row_scores(logits(params, batch.tokens, batch.valid), batch)

        self._score = score

    @property
    def positions(self) -> int:
        """Places that the model takes."""
        return self.model.config.max_positions

    def score(self, params: Params, batch: Batch) -> RowScores:
        """Scores rows; see `row_scores`.

        Args:
          params: of a model by path.
          batch: ``(rows, t)`` fields.

        Returns:
          NumPy arrays, the log-probability in float64, so that sums over many rows are exact.
        """
        total, length = batch.tokens.shape
        fitting = max(1, _LOGITS // (length * self.model.config.vocabulary))
        rows = min(self.rows, fitting, total)
        chunks = jax.device_get(in_chunks(lambda c: self._score(params, c), batch, rows))
        joined = RowScores(*(np.concatenate(parts)[:total] for parts in zip(*chunks, strict=True)))
        return joined._replace(log_probability=joined.log_probability.astype(np.float64))

    def answer(
        self, params: Params, prompts: Sequence[Ids], steps: int, stop: Sequence[int] = ()
    ) -> list[Ids]:
        """Continues prompts greedily.

        Args:
          params: of a model by path.
          prompts: ids of each prompt, none empty; together with `steps` within `positions`.
          steps: tokens of an answer at most.
          stop: tokens that end an answer.

        Returns:
          Ids of every answer, the token that ended it included.

        Raises:
          ValueError: if a prompt and its answer do not fit into the model.
        """
        longest = max(map(len, prompts), default=0)
        if longest + steps > self.positions:
            raise ValueError(
                f"a prompt of {longest} tokens and steps={steps} do not fit into the model's "
                f"{self.positions} positions: shorten the prompt or lower steps"
            )
        tree: Any = unflatten(params)
        tokens, valid = left_pad(prompts, pad=0)
        # The length was rounded up: the pads that do not fit go again.
        spare = max(0, tokens.shape[1] + steps - self.positions)
        tokens, valid = tokens[:, spare:], valid[:, spare:]
        rows = min(self.rows, len(prompts))
        answers: list[Any] = []
        for start in range(0, len(prompts), rows):
            # One shape for all: the last chunk is filled up with prompts of the first.
            chosen = np.arange(start, start + rows) % len(prompts)
            answers.append(generate(self.model, tree, tokens[chosen], valid[chosen], steps, stop))
        ids = np.concatenate(jax.device_get(answers))[: len(prompts)]
        return [_until(row.tolist(), frozenset(stop)) for row in ids]


def _until(ids: Ids, stop: frozenset[int]) -> Ids:
    """The ids up to the first that stops."""
    end = next((place for place, token in enumerate(ids) if token in stop), len(ids))
    return ids[: end + 1]
