"""Which patches an answer was read from: the reads of its tokens on rows that patches wrote."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from smf_jax.data.tokenizer import Ids
from smf_jax.evaluation.asking import MULTIPLE
from smf_jax.models.decoder import Decoder
from smf_jax.params import Params
from smf_jax.sparse.patch import Patch
from smf_jax.training.memory_model import MemoryModel, as_memory_model


class Provenance(NamedTuple):
    """What was read for an answer."""

    # Share of all read weight that fell on rows that patches wrote. A tenth is nothing to tell an
    # answer by: rows of the question's words are read whoever asks.
    written: float
    # Of that, each patch's share. A row that several wrote counts for each by how far it moved it.
    patches: tuple[float, ...]


class Reads:
    """Reads of one architecture, in few compiled shapes."""

    def __init__(self, model: Decoder) -> None:
        known = as_memory_model(model)
        self._tables, self._read = known.tables, jax.jit(partial(_read, known))

    def of(self, params: Params, ids: Ids) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By path of each table, slots and weights ``(n,)`` of all reads of a text's tokens."""
        length = -(-len(ids) // MULTIPLE) * MULTIPLE
        tokens = np.zeros((1, length), np.int32)
        tokens[0, : len(ids)] = ids
        valid = (np.arange(length) < len(ids))[None]
        found = jax.device_get(self._read(params, tokens, valid))
        joined = {}
        for table, layers in self._tables.items():
            each = [
                [field[0, : len(ids)].reshape(-1) for field in found[layer]] for layer in layers
            ]
            slots, weights = (np.concatenate(field) for field in zip(*each, strict=True))
            joined[table] = slots, np.abs(weights.astype(np.float64))
        return joined


def _read(model: MemoryModel, params: Params, tokens: jax.Array, valid: jax.Array) -> dict:
    return model.apply(params, tokens, valid, {})[1]


def provenance(
    reads: dict[str, tuple[np.ndarray, np.ndarray]], patches: Sequence[Patch]
) -> Provenance:
    """Whose rows the reads fell on; ``reads`` are slots and weights by path of a table."""
    total, written, by_patch = 0.0, 0.0, np.zeros(len(patches))
    for table, (slots, weights) in reads.items():
        moved = np.stack([_moves(patch, table, slots) for patch in patches], 1)
        of_all = moved.sum(axis=1)
        is_written = of_all > 0
        total += weights.sum()
        written += weights[is_written].sum()
        shares = moved[is_written] / of_all[is_written, None]
        by_patch += (weights[is_written, None] * shares).sum(axis=0)
    if not written:
        return Provenance(0.0, (0.0,) * len(patches))
    return Provenance(float(written / total), tuple((by_patch / written).tolist()))


def _moves(patch: Patch, table: str, slots: np.ndarray) -> np.ndarray:
    """How far a patch moved the row of each slot, ``‖new - old‖``; 0 where it did not."""
    change = patch.pools.get(table)
    if change is None or not change.slots.size:
        return np.zeros(slots.size)
    norms = np.linalg.norm(change.new.astype(np.float64) - change.old.astype(np.float64), axis=1)
    places = np.minimum(np.searchsorted(change.slots, slots), change.slots.size - 1)
    return np.where(change.slots[places] == slots, norms[places], 0.0)
