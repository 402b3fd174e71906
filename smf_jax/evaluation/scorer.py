"""Compiled scoring and greedy answering of one architecture; the leaves are an argument."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import takewhile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from smf_jax import interrupts
from smf_jax.data.batching import Batch, in_chunks
from smf_jax.data.tokenizer import Ids, Tokenizer
from smf_jax.evaluation.continuations import RowScores, row_scores
from smf_jax.losses import at_scored, count_scored, kl_to_base
from smf_jax.models.decoder import Decoder, plain_logits
from smf_jax.models.generate import generate, left_pad
from smf_jax.params import Params, unflatten

# Logits of a chunk: 1 GiB of float32.
_LOGITS = 2**28
# Tokens: a shorter prefix is not worth a program of its own.
_PREFIX = 16


class Scorer:
    """Scores rows of text and answers prompts, for any leaves of one architecture.

    A probe has one shape, so one compilation; ``rows`` run at once, fewer if logits pass 1 GiB.
    """

    def __init__(self, model: Decoder, rows: int = 128) -> None:
        if rows < 1:
            raise ValueError(f"rows={rows}: expected at least 1")
        self.model = model
        self.rows = rows
        logits = plain_logits(model)

        @partial(jax.jit, static_argnums=2)
        def score(params: Params, batch: Batch, scored: int) -> RowScores:
            asked, places = at_scored(batch, batch.weights, scored)
            return row_scores(logits(params, batch.tokens, batch.valid, places), asked)

        @partial(jax.jit, static_argnums=3)
        def divergence(before: Params, now: Params, batch: Batch, scored: int) -> Array:
            asked, places = at_scored(batch, batch.weights, scored)
            at = (batch.tokens, batch.valid, places)
            found = kl_to_base(logits(before, *at), logits(now, *at))
            return jnp.sum(jnp.where(asked.weights > 0, found, 0), axis=1)

        self._score, self._divergence = score, divergence

    @property
    def positions(self) -> int:
        """Places that the model takes."""
        return self.model.config.max_positions

    def score(self, params: Params, batch: Batch) -> RowScores:
        """Scores ``(rows, t)`` as `row_scores` does, in NumPy and float64: sums are exact."""
        interrupts.check()
        total, scored = batch.tokens.shape[0], count_scored(batch.weights)
        rows = self._rows_at_once(batch)
        chunks = jax.device_get(in_chunks(lambda c: self._score(params, c, scored), batch, rows))
        joined = RowScores(*(np.concatenate(parts)[:total] for parts in zip(*chunks, strict=True)))
        return joined._replace(log_probability=joined.log_probability.astype(np.float64))

    def divergence(self, before: Params, now: Params, batch: Batch) -> np.ndarray:
        """``KL(before ‖ now)`` of the predictions of weight in ``(rows, t)``, summed by row, nats.

        ``(rows,)`` float64.
        """
        interrupts.check()
        scored = count_scored(batch.weights)
        rows = max(1, self._rows_at_once(batch) // 2)  # the logits of two models
        beside = {device for leaf in jax.tree.leaves(now) for device in jnp.asarray(leaf).devices()}
        if len(beside) == 1:  # at once, and not anew for each chunk
            before = jax.device_put(before, beside.pop())
        chunks = in_chunks(lambda c: self._divergence(before, now, c, scored), batch, rows)
        found = np.concatenate(jax.device_get(chunks))[: batch.tokens.shape[0]]
        return found.astype(np.float64)

    def _rows_at_once(self, batch: Batch) -> int:
        scored = count_scored(batch.weights)
        fitting = max(1, _LOGITS // (scored * self.model.config.vocabulary))
        return min(self.rows, fitting, batch.tokens.shape[0])

    def answer(
        self,
        params: Params,
        prompts: Sequence[Ids],
        steps: int,
        stop: Sequence[int] = (),
        multiple: int = 8,
    ) -> list[Ids]:
        """Continues prompts, none empty, greedily by ``steps`` tokens at most.

        The ids of an answer include the one of ``stop`` that ended it. Prompts are padded to a
        ``multiple`` of tokens. A ValueError if one and its answer do not fit into the model.
        """
        longest = max(map(len, prompts), default=0)
        if longest + steps > self.positions:
            raise ValueError(
                f"a prompt of {longest} tokens and steps={steps} do not fit into the model's "
                f"{self.positions} positions: shorten the prompt or lower steps"
            )
        tree: Any = unflatten(params)
        # Examples that stand before every question are computed once.
        prefix = shared_prefix(prompts)
        tokens, valid = left_pad([ids[len(prefix) :] for ids in prompts], 0, multiple)
        # The length was rounded up: the pads that do not fit go again.
        spare = max(0, len(prefix) + tokens.shape[1] + steps - self.positions)
        tokens, valid = tokens[:, spare:], valid[:, spare:]
        rows = min(self.rows, len(prompts))
        answers: list[Any] = []
        for start in range(0, len(prompts), rows):
            interrupts.check()
            # One shape for all: the last chunk is filled up with prompts of the first.
            chosen = np.arange(start, start + rows) % len(prompts)
            asked = tokens[chosen], valid[chosen]
            answers.append(generate(self.model, tree, *asked, steps, stop, prefix=prefix))
        found = [ids.tolist() for ids in np.concatenate(jax.device_get(answers))[: len(prompts)]]
        ends = frozenset(stop)
        first = (next((i for i, token in enumerate(ids) if token in ends), steps) for ids in found)
        return [ids[: end + 1] for ids, end in zip(found, first, strict=True)]


def shared_prefix(prompts: Sequence[Ids]) -> Ids:
    """The tokens that all prompts start with, a multiple of `_PREFIX` of them; each has more.

    None of a lone prompt. A length of few choices keeps programs few.
    """
    if len(prompts) < 2:
        return []
    columns = zip(*prompts, strict=False)  # up to the shortest
    count = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    count = min(count, min(map(len, prompts)) - 1)
    return prompts[0][: count // _PREFIX * _PREFIX]


def answer_texts(
    scorer: Scorer,
    params: Params,
    tokenizer: Tokenizer,
    prompts: Sequence[Ids],
    steps: int,
    until: Sequence[str],
    multiple: int = 8,
) -> list[str]:
    """Greedy answers as text, without what ends them: an end token, or one of the texts ``until``.

    Prompts are padded as by `Scorer.answer`. A token may hold a piece of the answer and a text that
    ends it; one that ends every text may be no special token, and is no part of the answer.
    """
    stop = {*tokenizer.stops, *(i for text in until for i in tokenizer.tokens_with(text))}
    answers = []
    for ids in scorer.answer(params, prompts, steps, tuple(sorted(stop)), multiple):
        answer = tokenizer.decode(ids[:-1] if ids[-1] in tokenizer.stops else ids)
        # A text that only several tokens make together is found here.
        for text in until:
            answer = answer.partition(text)[0]
        answers.append(answer)
    return answers
