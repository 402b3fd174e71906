"""Counts without pads, background statistics, and their refusal for another base."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.sparse.usage import (
    Background,
    add_batch,
    count_accesses,
    no_usage,
    touched_share,
    used_in_all,
    with_totals,
)
from tests import oracles
from tests.sparse.tiny import READ_SLOTS as SLOTS
from tests.sparse.tiny import recorded_reads


def test_accesses_are_counted_over_heads_and_without_pads():
    slots, valid = recorded_reads()
    counts = count_accesses(jnp.asarray(slots), jnp.asarray(valid), SLOTS)
    assert counts.dtype == jnp.int32
    np.testing.assert_array_equal(counts, oracles.accesses(slots, valid, SLOTS))
    assert int(counts.sum()) == 6 * valid.sum()


def test_what_a_pad_reads_is_never_counted():
    slots, valid = recorded_reads()
    other = np.where(valid[:, None], slots, SLOTS - 1 - slots)
    first, second = (count_accesses(jnp.asarray(s), jnp.asarray(valid), SLOTS)
                     for s in (slots, other))  # fmt: skip
    np.testing.assert_array_equal(first, second)
    none = count_accesses(jnp.asarray(slots), jnp.zeros(len(valid), bool), SLOTS)
    assert not np.asarray(none).any()


def test_background_statistics():
    usage = no_usage(SLOTS)
    df, acc = np.zeros(SLOTS, int), np.zeros(SLOTS, int)
    for seed in range(5):
        slots, valid = recorded_reads(seed)
        counts = oracles.accesses(slots, valid, SLOTS)
        usage = add_batch(usage, jnp.asarray(counts, jnp.int32))
        df, acc = df + (counts > 0), acc + counts
    np.testing.assert_array_equal(usage.document_frequency, df)
    np.testing.assert_array_equal(usage.accesses, acc)
    assert int(usage.batches) == 5
    assert {leaf.dtype for leaf in jax.tree.leaves(usage)} == {jnp.dtype(jnp.int32)}


def a_background():
    usage = add_batch(no_usage(SLOTS), jnp.arange(SLOTS, dtype=jnp.int32))
    other = add_batch(usage, jnp.ones(SLOTS, jnp.int32))
    pools = {"memory/pool_2/values": usage, "memory/pool_11/values": other}
    return Background(pools, 512, "neutral", "tokenizer-digest", "base-digest")


def test_the_share_of_batches_that_touch_a_slot():
    usage = no_usage(4)
    for counts in ([3, 0, 0, 1], [0, 0, 0, 9]):
        usage = add_batch(usage, jnp.array(counts, jnp.int32))
    assert touched_share(usage) == 3 / 8
    assert touched_share(no_usage(4)) == 0


def test_a_background_survives_storage():
    background = a_background()
    arrays, metadata = background.to_arrays()
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    read = Background.from_arrays(arrays, json.loads(json.dumps(metadata)))
    assert read.pools.keys() == background.pools.keys()
    jax.tree.map(np.testing.assert_array_equal, dict(read.pools), dict(background.pools))
    assert replace(read, pools={}) == replace(background, pools={})


def test_a_background_of_another_memory_is_refused():
    sizes = {"memory/pool_2/values": SLOTS, "memory/pool_11/values": SLOTS}
    background = replace(a_background(), routing={"reads": 8})
    background.require_memory({"reads": 8}, sizes)
    with pytest.raises(ValueError, match="setting reads 8, this base has 16; measure the back"):
        background.require_memory({"reads": 16}, sizes)
    with pytest.raises(ValueError, match="another memory: .* slots by table"):
        background.require_memory({"reads": 8}, {**sizes, "memory/pool_2/values": SLOTS + 1})
    # Of one that an earlier version has measured the settings are not known, the sizes are.
    arrays, metadata = background.to_arrays()
    del metadata["routing"]
    earlier = Background.from_arrays(arrays, metadata)
    earlier.require_memory({"reads": 16}, sizes)
    with pytest.raises(ValueError, match="slots by table"):
        earlier.require_memory({}, {})


def test_a_background_knows_its_totals():
    background = a_background()
    for usage in background.pools.values():
        assert usage.frequency_total is not None and usage.accesses_total is not None
        totals = float(usage.frequency_total), float(usage.accesses_total)
        sums = (np.sum(np.asarray(v)) + SLOTS for v in (usage.document_frequency, usage.accesses))
        assert totals == tuple(sums)
    arrays, metadata = background.to_arrays()
    assert {path.rpartition("/")[2] for path in arrays} == {
        "document_frequency",
        "accesses",
        "batches",
    }, "totals are not stored"
    read = Background.from_arrays(arrays, metadata)
    assert read.pools["memory/pool_2/values"].frequency_total is not None
    counted = add_batch(background.pools["memory/pool_2/values"], jnp.ones(SLOTS, jnp.int32))
    assert counted.frequency_total is None, "totals of fewer batches are forgotten"


def test_sums_over_slots_do_not_overflow():
    usage = no_usage(SLOTS)._replace(accesses=jnp.full(SLOTS, 2**30, jnp.int32))
    totalled = with_totals(usage)
    assert totalled.accesses_total is not None
    assert float(totalled.accesses_total) == pytest.approx(SLOTS * (2**30 + 1), rel=1e-7)
    summed = float(used_in_all(usage, "acc"))
    assert summed == pytest.approx(float(totalled.accesses_total), rel=1e-6)


def test_a_background_serves_its_own_base_only():
    background = a_background()
    background.require("base-digest", "tokenizer-digest")
    with pytest.raises(ValueError, match="another model: .* 'neutral' .* measure the background"):
        background.require("other-base", "tokenizer-digest")
    with pytest.raises(ValueError, match="another tokenizer: .*tokenizer-di, .*other-tokeni"):
        background.require("base-digest", "other-tokenizer")


def test_a_file_of_another_version_is_refused():
    arrays, metadata = a_background().to_arrays()
    with pytest.raises(ValueError, match="background_format=99 is not 1"):
        Background.from_arrays(arrays, metadata | {"background_format": 99})
    with pytest.raises(ValueError, match="background_format=None is not 1"):
        Background.from_arrays(arrays, {})
