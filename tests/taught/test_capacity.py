"""Room for a lesson: the rows that its steps rank first, of those that patches wrote."""

from __future__ import annotations

import numpy as np
import pytest

from smf_jax.checkpoints import load
from smf_jax.data.batching import encode_paraphrases
from smf_jax.sparse.patch import make_patch, pool_change
from smf_jax.sparse.usage import Background
from smf_jax.taught.asking import TaughtModel
from smf_jax.taught.capacity import Room, room_for, room_lines
from smf_jax.taught.directory import TaughtDirectory
from smf_jax.taught.lessons import facts_again
from smf_jax.taught.provenance import Reads


def test_room_is_what_a_ranking_of_reads_by_hand_gives(taught):
    directory = TaughtDirectory(str(taught))
    model = TaughtModel(directory)
    background = Background.from_arrays(*load(directory.background_path()))
    (fact, *_) = facts_again(model.record.lessons[0].facts)
    batch = encode_paraphrases(model.base.tokenizer, fact.train, 64, 1.0)
    ((table, usage),) = background.pools.items()
    # The same reads, one text at a time, and their ranking in NumPy.
    counts = np.zeros(64**2)
    reads = Reads(model.base.model)
    for tokens, valid in zip(batch.tokens, batch.valid, strict=True):
        slots, _ = reads.of(model.base.params, tokens[: np.count_nonzero(valid)].tolist())[table]
        np.add.at(counts, slots, 1)
    batches = int(usage.batches)
    rarity = np.log((batches + 1) / (np.asarray(usage.document_frequency) + 1))
    scores = np.where(counts > 0, counts / counts.sum() * rarity, -np.inf)
    best = np.argsort(-scores, kind="stable")[:20]
    # A patch that moved the two best by 3 and 1, and one that is not read by 4.
    (unread, *_) = np.flatnonzero(counts == 0)
    old = np.zeros((3, model.params[table].shape[1]), np.float32)
    new = old.copy()
    new[:, 0] = (3, 1, 4)
    change = pool_change(np.array([best[0], best[1], unread]), old, new, 64**2)
    patch = make_patch({table: change}, task="a", base="base")
    found = room_for(
        model.base.model, model.base.params, background, [patch], [batch, batch], budget=20
    )
    assert found[:4] == (20, 2, 3, 64**2) and found.undone == pytest.approx(0.5)
    assert found.is_crowded


def test_a_table_that_runs_out_of_rows_is_told_before_it_costs_anything():
    free = Room(500, 10, 5000, 262144, 0.02)
    (line,) = room_lines(free)
    assert "5,000 of 262,144 rows" in line and "10 of them again, which hold 2%" in line
    assert not free.is_crowded
    warning = room_lines(Room(9253, 2305, 13076, 262144, 0.25))[1]  # as lost 2 of 20
    assert warning.startswith("warning: ") and "--keys_per_half" in warning
