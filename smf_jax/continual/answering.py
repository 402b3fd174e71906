"""Asking trials the questions of probes, in as few rows as tell which of them are answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool

from smf_jax.continual.stream_data import all_rows
from smf_jax.data.batching import Batch
from smf_jax.data.packing import Packed, one_to_a_row, pack_rows
from smf_jax.evaluation.probes.exact import ExactProbe, exact_match
from smf_jax.losses import count_scored


class Trials(Protocol):
    """What is asked: a `TrialGroup`."""

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def answers(
        self, state: Any, asked: Packed, scored: int = 0, sequences: int = 0
    ) -> Bool[np.ndarray, "trials b"]:
        """Which sequences each of them answers."""
        ...


class Answering:
    """Asks probes of one length, whichever of them at a time, by one compiled function.

    Of each question the answer that was taught is tried first, and only where a trial does not give
    it are the others that are accepted.
    """

    def __init__(self, every: Sequence[ExactProbe], pack: bool) -> None:
        """Of all probes that will be asked; ``pack`` puts several questions to a row."""
        self._pack = pack
        rows = all_rows(every)
        packed = self._packed(rows, np.flatnonzero(_tried_first(every)), every)
        scored = (count_scored(each.weights) for each in (rows, packed.rows))
        self._shape = max(scored), int(packed.number.max())

    def shares(self, trials: Trials, state: Any, probes: Sequence[ExactProbe]) -> list[list[float]]:
        """By trial, the share of each probe's questions that it answers word for word."""
        rows, taught = all_rows(probes), _tried_first(probes)
        right = np.zeros((trials.size, len(taught)), bool)
        asked = self._packed(rows, np.flatnonzero(taught), probes)
        right[:, taught] = trials.answers(state, asked, *self._shape)
        answered = np.all(right[:, taught], axis=0)[np.cumsum(taught) - 1]
        left = np.flatnonzero(~taught & ~answered)
        if left.size:
            others = self._one_to_a_row(rows, left)
            right[:, left] = trials.answers(state, others, *self._shape)
        return [answered_shares(probes, of_trial) for of_trial in right]

    def _packed(self, rows: Batch, chosen: np.ndarray, probes: Sequence[ExactProbe]) -> Packed:
        """Some of the rows of probes, those of each packed among themselves.

        So they stay as they are, whatever is asked beside them, and what no task changes of them is
        computed once.
        """
        if not self._pack:
            return self._one_to_a_row(rows, chosen)
        ends = np.cumsum([len(probe.question) for probe in probes])
        sizes = np.diff(np.searchsorted(chosen, ends), prepend=0)
        return pack_rows(_taken(rows, chosen), sizes.tolist())

    def _one_to_a_row(self, rows: Batch, chosen: np.ndarray) -> Packed:
        """Some of the rows, not packed; of the dtypes of those that are."""
        some = _taken(rows, chosen)
        if self._pack:
            some = some._replace(valid=some.valid.astype(np.int32))
        return one_to_a_row(some, [len(chosen)])


def answered_shares(probes: Sequence[ExactProbe], right: Bool[np.ndarray, " rows"]) -> list[float]:
    """The share of questions that each probe has right, by the rows of all, one after another."""
    ends = np.cumsum([len(probe.question) for probe in probes])
    parts = np.split(right, ends[:-1])
    return [exact_match(*of) for of in zip(probes, parts, strict=True)]


def _tried_first(probes: Sequence[ExactProbe]) -> Bool[np.ndarray, " rows"]:
    """Which rows are the first of their question: those of the answer that is taught."""
    return np.concatenate([np.diff(probe.question, prepend=-1) != 0 for probe in probes])


def _taken(rows: Batch, chosen: np.ndarray) -> Batch:
    return Batch(*(field[chosen] for field in rows))
