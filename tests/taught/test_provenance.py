"""Which patches an answer was read from."""

from __future__ import annotations

import numpy as np
import pytest

from smf_jax.sparse.patch import make_patch, pool_change
from smf_jax.taught.provenance import provenance

POOL = "memory/pool_1/values"


def patch_of(task, slots, moves):
    """A patch that moves rows of width 2 by so much."""
    old = np.zeros((len(slots), 2), np.float32)
    new = old.copy()
    new[:, 0] = moves
    return make_patch({POOL: pool_change(slots, old, new, 10)}, task=task, base="base")


def test_read_weight_on_written_rows_is_shared_by_patches():
    first, second = patch_of("a", [1, 2], [3.0, 1.0]), patch_of("b", [2, 5], [3.0, 1.0])
    slots = np.array([1, 2, 5, 7, 7])
    weights = np.array([0.1, 0.4, 0.1, 0.2, 0.2])
    found = provenance({POOL: (slots, weights)}, [first, second])
    assert found.written == pytest.approx(0.6)
    # Slot 2 was moved by both, by one part and by three.
    assert found.patches == pytest.approx(((0.1 + 0.1) / 0.6, (0.3 + 0.1) / 0.6))


def test_nothing_written_is_read():
    patches = [patch_of("a", [1], [3.0])]
    reads = {POOL: (np.array([0, 9]), np.array([0.5, 0.5]))}
    assert provenance(reads, patches) == (0.0, (0.0,))
    other = {"memory/pool_7/values": (np.array([1]), np.array([1.0]))}
    assert provenance(other, patches) == (0.0, (0.0,))
