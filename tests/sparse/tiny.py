"""Counts, backgrounds and reads of small tables, for the tests of what selects rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from smf_jax.sparse.accesses import count_reads
from smf_jax.sparse.usage import PoolUsage, count_accesses

SLOTS, BATCHES = 331, 9  # a prime number: no vector width divides it
READ_SLOTS = 40
FORMULAS = ("tfidf", "tf", "kl_df", "kl_acc")


def case(seed=0, accessed=0.4):
    """Counts with many ties, and a background where some slots are in every batch."""
    rng = np.random.default_rng(seed)
    counts = np.where(rng.random(SLOTS) < accessed, rng.integers(1, 6, SLOTS), 0)
    df = np.minimum(rng.integers(0, BATCHES + 3, SLOTS), BATCHES)
    acc = df * rng.integers(1, 4, SLOTS)
    usage = PoolUsage(
        jnp.asarray(df, jnp.int32), jnp.asarray(acc, jnp.int32), jnp.asarray(BATCHES, jnp.int32)
    )
    return jnp.asarray(counts, jnp.int32), usage, (counts, df, acc, BATCHES)


def chosen(slots):
    """The selected ids; unused places hold N and stand last."""
    slots = np.asarray(slots)
    used = slots < SLOTS
    assert used[: used.sum()].all() and (slots[~used] == SLOTS).all()
    return slots[used]


def golden_case(arrays):
    """Counts and background of the public implementation's vectors."""
    slots, background = arrays["batch_indices"], arrays["background_indices"]
    table_slots, batches = len(arrays["df"]), int(arrays["num_background_batches"])
    df = sum(np.isin(np.arange(table_slots), batch).astype(int) for batch in background)
    np.testing.assert_array_equal(df, arrays["df"])
    tokens = jnp.asarray(slots.reshape(len(slots), -1))
    counts = count_accesses(tokens, jnp.ones(len(slots), bool), table_slots)
    return counts, PoolUsage(
        jnp.asarray(df, jnp.int32), jnp.asarray(df, jnp.int32), jnp.asarray(batches, jnp.int32)
    )


def both_forms(table_slots, read_slots, tokens, reads, rule, seed):
    """One batch's accesses in both forms, with heavy ties and pads."""
    rng = np.random.default_rng(seed)
    slots = [jnp.asarray(rng.integers(0, read_slots, (tokens, reads)), jnp.int32)]
    weights = [jnp.asarray(rng.random((tokens, reads)), jnp.float32)] if rule == "mass" else None
    valid = jnp.asarray(rng.random(tokens) < 0.7)
    count = jax.jit(count_reads, static_argnames=("table_slots", "form"))
    return [count(slots, valid, table_slots, weights, form) for form in ("vector", "sorted")]


def recorded_reads(seed=0, tokens=24, reads=6):
    """Slots, some chosen twice by one token, and a mask with pads."""
    rng = np.random.default_rng(seed)
    slots = rng.integers(0, READ_SLOTS, (tokens, reads)).astype(np.int32) // 2
    slots[:, 1] = slots[:, 0]
    return slots, rng.random(tokens) < 0.7


def in_vector(found, values):
    """Numbers of either form by slot; those of the sorted form stand once for each slot."""
    values = np.asarray(values)
    if found.slots is None:
        return values
    slots, counts = np.asarray(found.slots), np.asarray(found.counts)
    assert len(set(slots[counts > 0])) == (counts > 0).sum()
    vector = np.zeros(found.table_slots, values.dtype)
    vector[slots[counts > 0]] = values[counts > 0]
    return vector
