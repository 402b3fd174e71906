"""Norms of all read rows' gradients against the whole gradient, whatever the chunk."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.sparse.rows import count_with_norms
from tests import oracles
from tests.sparse.test_accesses import in_vector
from tests.sparse.test_rows import SLOTS, traces

counted = jax.jit(count_with_norms, static_argnames=("table_slots", "chunk"))


def same_length(layers):
    """Reads of several layers of one batch."""
    return [traces(1, seed=seed)[0] for seed in range(layers)]


@pytest.mark.parametrize("chunk", [1, 4, 35, 1024])
@pytest.mark.parametrize("layers", [1, 3])
def test_norms_are_those_of_the_rows_of_the_whole_gradient(chunk, layers):
    reads, valid = same_length(layers), np.array([1, 1, 0, 1, 1, 0, 1], bool)
    found = counted(reads, valid, SLOTS, chunk)
    whole, counts = 0, 0
    for read in reads:
        weights = read.weights * valid[:, None]
        whole = whole + oracles.table_gradient(read.cotangent, read.slots, weights, SLOTS)
        counts = counts + oracles.accesses(read.slots, valid, SLOTS)
    np.testing.assert_array_equal(in_vector(found, found.counts), counts)
    norms = np.linalg.norm(whole, axis=1)
    np.testing.assert_allclose(in_vector(found, found.amounts), norms, rtol=0, atol=3e-6)
    assert counts.max() > chunk or chunk > 1, "a slot's reads stand in several chunks"
    assert found.table_slots == SLOTS and found.slots is not None


def test_no_more_than_a_chunk_of_rows_is_held():
    reads, tokens, width, slots = 64, 256, 24, 70_001
    trace = traces(1)[0]._replace(
        slots=jnp.zeros((tokens, reads), jnp.int32),
        weights=jnp.zeros((tokens, reads)),
        cotangent=jnp.zeros((tokens, width)),
    )
    lowered = counted.lower([trace], jnp.ones(tokens, bool), slots, 512)
    assert f"{slots}x" not in lowered.as_text()
    rows_of_reads = tokens * reads * width * 4
    assert lowered.compile().memory_analysis().temp_size_in_bytes < rows_of_reads / 2


def test_no_reads_are_refused():
    with pytest.raises(ValueError, match="reads is empty: give the reads of at least one layer"):
        count_with_norms([], jnp.ones(3, bool), SLOTS)
