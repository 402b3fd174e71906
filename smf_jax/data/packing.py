"""Several short sequences to a row: fewer pads, the same tokens. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from smf_jax.data.batching import Batch


class Packed(NamedTuple):
    """Sequences ``(b,)`` in rows of one or several each, and where each of them stands."""

    rows: Batch  # ``(rows, t)``; ``valid`` numbers the sequences of a row from 1, 0 on pads
    groups: list[int]  # rows that each group of sequences takes
    row: np.ndarray  # ``(b,)`` int, the row of a sequence
    number: np.ndarray  # ``(b,)`` int, its number there, from 1

    def of_sequences(self, found: Any) -> Any:
        """What was found of rows and numbers, ``(…, rows, s)``, by sequence, ``(…, b)``."""
        return found[..., self.row, self.number - 1]


def one_to_a_row(examples: Batch, groups: Sequence[int] = ()) -> Packed:
    """The sequences ``(b, t)`` as they are, a row each; of one group, if none are told."""
    count = len(examples.tokens)
    return Packed(examples, list(groups) or [count], np.arange(count), np.ones(count, int))


def pack_rows(examples: Batch, groups: Sequence[int], scored: int | None = None) -> Packed:
    """Puts sequences ``(b, t)``, padded on the right, end to end into as few rows as go well.

    ``groups`` are the sizes of runs of sequences that may share rows; they add up to ``b``. Within
    one the longest goes first, into the first row that has room for it, and for its targets of
    weight, if a row is to have so many ``scored`` at most; no sequence has more. A model that is
    given the numbers in place of the mask of valid tokens keeps the sequences of a row apart.
    """
    lengths = np.count_nonzero(examples.valid, axis=1)
    targets = np.count_nonzero(examples.weights, axis=1)
    needs = np.stack([lengths, targets], axis=1)
    width, placed, taken, begun = examples.tokens.shape[1], [], [], 0
    empty = width, width if scored is None else scored
    for size in groups:
        rows: list[list[int]] = []
        room: list[np.ndarray] = []
        for sequence in begun + np.argsort(-lengths[begun : begun + size], kind="stable"):
            needed = needs[sequence]
            row = next((at for at, free in enumerate(room) if np.all(free >= needed)), len(rows))
            if row == len(rows):
                rows.append([])
                room.append(np.array(empty))
            rows[row].append(int(sequence))
            room[row] -= needed
        placed += rows
        taken.append(len(rows))
        begun += size
    row_of, number_of = np.zeros((2, len(lengths)), int)
    packed = Batch(*(np.zeros((len(placed), width), field.dtype) for field in examples))
    packed = packed._replace(valid=np.zeros((len(placed), width), np.int32))
    for row, sequences in enumerate(placed):
        start = 0
        for number, sequence in enumerate(sequences, 1):
            end = start + lengths[sequence]
            for whole, field in zip(packed, examples, strict=True):
                whole[row, start:end] = field[sequence, : end - start]
            packed.valid[row, start:end] = number
            row_of[sequence], number_of[sequence] = row, number
            start = end
    return Packed(packed, taken, row_of, number_of)
