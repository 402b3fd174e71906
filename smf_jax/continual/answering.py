"""Asking trials the questions of probes, in as few rows as tell which of them are answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool

from smf_jax.data.batching import Batch
from smf_jax.data.packing import Packed, one_to_a_row, pack_rows
from smf_jax.evaluation.probes.exact import ExactProbe, all_rows, answered_shares
from smf_jax.losses import count_scored


class Trials(Protocol):
    """What is asked: a `TrialGroup`."""

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    @property
    def eval_batch_size(self) -> int:
        """Rows that are asked at once, filled up where there are fewer."""
        ...

    def answers(
        self, state: Any, asked: Packed, scored: int = 0, sequences: int = 0
    ) -> Bool[np.ndarray, "trials b"]:
        """Which sequences each of them answers."""
        ...


class Answering:
    """Asks probes of one length, whichever of them at a time, by one compiled function.

    Of each question the answer that was taught is tried first, and only where a trial does not give
    it are the others that are accepted; all at once where they fit into one batch.
    """

    def __init__(self, every: Sequence[ExactProbe], pack: bool) -> None:
        """Of all probes that will be asked; ``pack`` puts several questions to a row."""
        self._pack = pack
        self._scored = count_scored(all_rows(every).weights)
        self._sequences = int(self._taught(every).number.max())

    def shares(self, trials: Trials, state: Any, probes: Sequence[ExactProbe]) -> list[list[float]]:
        """By trial, the share of each probe's questions that it answers word for word."""
        rows, taught = all_rows(probes), _tried_first(probes)

        def answers(asked: Packed) -> Bool[np.ndarray, "trials b"]:
            return trials.answers(state, asked, self._scored, self._sequences)

        if len(taught) <= trials.eval_batch_size:
            right = answers(self._one_to_a_row(rows))
            return [answered_shares(probes, of_trial) for of_trial in right]
        right = np.zeros((trials.size, len(taught)), bool)
        right[:, taught] = answers(self._taught(probes))
        answered = np.all(right[:, taught], axis=0)[np.cumsum(taught) - 1]
        left = ~taught & ~answered
        if left.any():
            right[:, left] = answers(self._one_to_a_row(_taken(rows, left)))
        return [answered_shares(probes, of_trial) for of_trial in right]

    def _taught(self, probes: Sequence[ExactProbe]) -> Packed:
        """The rows of the answers that were taught, those of each probe packed among themselves.

        So they stay as they are, whatever is asked beside them, and what no task changes of them is
        computed once. There are no more targets of weight in a row than one question may have, and
        so no more logits at once.
        """
        rows = _taken(all_rows(probes), _tried_first(probes))
        if not self._pack:
            return self._one_to_a_row(rows)
        return pack_rows(rows, [probe.questions for probe in probes], self._scored)

    def _one_to_a_row(self, rows: Batch) -> Packed:
        """Rows that are not packed, of the dtypes of those that are."""
        if self._pack:
            rows = rows._replace(valid=rows.valid.astype(np.int32))
        return one_to_a_row(rows)


def _tried_first(probes: Sequence[ExactProbe]) -> Bool[np.ndarray, " rows"]:
    """Which rows are the first of their question: those of the answer that is taught."""
    return np.concatenate([np.diff(probe.question, prepend=-1) != 0 for probe in probes])


def _taken(rows: Batch, chosen: np.ndarray) -> Batch:
    return Batch(*(field[chosen] for field in rows))
