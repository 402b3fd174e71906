"""Whether tables have room for a lesson: what it would write of what patches wrote before it.

Nothing is trained: the reads of the facts are counted, and ranked as a step ranks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from smf_jax.data.batching import Batch
from smf_jax.models.decoder import Decoder
from smf_jax.params import Params
from smf_jax.sparse.patch import Patch
from smf_jax.sparse.rules import score_slots
from smf_jax.sparse.usage import Background
from smf_jax.training.memory_model import MemoryModel, as_memory_model
from smf_jax.training.reads import read_counts

# Share of what earlier patches changed that a lesson may write over before it is told. Calibrated
# with one table, on one run of lessons of twenty facts, where the second was at 25 % and lost 2
# facts of the first; see docs/teach.md.
CROWDED = 0.2


class Room(NamedTuple):
    """What a lesson would write, in rows of all tables."""

    rows: int  # rows that its steps rank first
    again: int  # of them, those that patches wrote
    written: int  # rows that patches wrote
    slots: int  # rows of the tables
    undone: float  # of how far patches moved rows, the share at rows that it would write

    @property
    def is_crowded(self) -> bool:
        """Whether so much would be written over that earlier facts are in danger."""
        return self.undone >= CROWDED


def room_for(
    model: Decoder | MemoryModel,
    params: Params,
    background: Background,
    patches: Sequence[Patch],
    batches: Sequence[Batch],
    *,
    budget: int,
    rule: str = "tfidf",
) -> Room:
    """The room that ``patches`` leave for facts in ``(b, t)`` batches, as many as a step sees.

    A step of each batch writes its ``budget`` best rows of each table by the rule.
    """
    known = as_memory_model(model)
    count = jax.jit(partial(read_counts, known))
    chosen: dict[str, set[int]] = {table: set() for table in known.tables}
    for batch in batches:
        for table, counts in count(params, batch).items():
            chosen[table].update(_best(counts, background, table, rule, budget))
    rows = again = written = slots = 0
    undone = total = 0.0
    for table, of_table in chosen.items():
        moved = _moved(patches, table, len(params[table]))
        ours = np.fromiter(of_table, np.int64, len(of_table))
        rows, again = rows + ours.size, again + np.count_nonzero(moved[ours])
        written, slots = written + np.count_nonzero(moved), slots + moved.size
        undone, total = undone + moved[ours].sum(), total + moved.sum()
    return Room(rows, int(again), int(written), slots, float(undone / total) if total else 0.0)


def _best(
    counts: jax.Array, background: Background, table: str, rule: str, budget: int
) -> list[int]:
    scores = np.asarray(score_slots(counts, background.pools[table], rule))
    order = np.argsort(-scores, kind="stable")[:budget]
    return order[np.isfinite(scores[order])].tolist()


def _moved(patches: Sequence[Patch], table: str, slots: int) -> np.ndarray:
    """How far patches moved each row, ``(N,)``, summed over them."""
    moved = np.zeros(slots)
    for patch in patches:
        if (change := patch.pools.get(table)) is not None:
            step = change.new.astype(np.float64) - change.old.astype(np.float64)
            moved[change.slots] += np.linalg.norm(step, axis=1)
    return moved


def room_lines(room: Room) -> list[str]:
    """What is told before a lesson on top of others."""
    lines = [
        f"room: patches wrote {room.written:,} of {room.slots:,} rows; these facts would write "
        f"about {room.rows:,}, {room.again:,} of them again, which hold {room.undone:.0%} of what "
        "was changed"
    ]
    if room.is_crowded:
        lines.append(
            f"warning: {CROWDED:.0%} or more: these facts write over what earlier ones were taught "
            "by, and some of those are likely to be lost; stop now and teach these facts to "
            "another --out, or to a model with larger tables (--keys_per_half)"
        )
    return lines
