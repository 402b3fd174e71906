"""Memory of a step on somebody else's table: ``python -m benchmarks.foreign_table [ROWS [WIDTH]]``.

A model in plain JAX gathers hashed rows from a table; five steps of Adam change a few of them. Told
as JSON: bytes of the table, what the process held at its peak beyond it, what the optimizer keeps,
and whether every other row kept its bits (rows are made again from their seeds and compared).
"""

from __future__ import annotations

import json
import resource
import sys
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smf_jax.data.batching import Batch
from smf_jax.memory.ngrams import ngram_slots, recent_tokens
from smf_jax.params import Params, count_bytes
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.background import measure_background
from smf_jax.training.foreign_tables import foreign_tables
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Settings, Shared

TABLE, HEADS, VOCABULARY = "engram/table", 4, 1000
CHUNK, STEPS, BUDGET = 2**16, 5, 64
BEYOND_TABLE = 0.35  # GiB that the process may hold beside the table at its peak


def chunk_of(number: int, width: int) -> np.ndarray:
    """Some rows as they start, ``(CHUNK, v)``."""
    return np.random.default_rng(number).standard_normal((CHUNK, width), np.float32)


def slots_of(rows: int, tokens: jax.Array, valid: jax.Array) -> jax.Array:
    """The index function: two-grams and three-grams of four heads, ``(b, t, 8)``."""
    return ngram_slots(recent_tokens(tokens, valid, 3).tokens, HEADS, rows).reshape(
        *tokens.shape, -1
    )


def make_table(rows: int, width: int) -> jax.Array:
    """The table ``(N, v)``, a chunk at a time."""
    write = jax.jit(partial(jax.lax.dynamic_update_slice_in_dim, axis=0), donate_argnums=0)
    table = jnp.zeros((rows, width), jnp.float32)
    for number in range(rows // CHUNK):
        table = write(table, chunk_of(number, width), jnp.int32(number * CHUNK))
    return table.block_until_ready()


def batches(count: int, seed: int) -> Batch:
    """``(count, 16, 64)`` random tokens that predict random ones."""
    tokens = np.random.default_rng(seed).integers(0, VOCABULARY, (2, count, 16, 64))
    ones = np.ones(tokens.shape[1:], np.float32)
    tokens = tokens.astype(np.int32)
    return Batch(tokens[0], tokens[1], ones, ones > 0)


def peak_bytes() -> int:
    """The most that the process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(rows: int, width: int) -> dict[str, Any]:
    """Trains a few rows of a table of so many; gives back what is told."""
    if rows % CHUNK:
        raise ValueError(f"ROWS={rows} is not a multiple of {CHUNK:,}")
    jax.jit(jnp.sin)(jnp.ones(8)).block_until_ready()
    before = peak_bytes()

    def logits(params: Params, tokens: jax.Array, valid: jax.Array) -> jax.Array:
        e = params[TABLE][slots_of(rows, tokens, valid)]
        return e.reshape(*tokens.shape, -1) @ params["head"]

    head = jnp.asarray(chunk_of(-1 % 2**32, 8 * HEADS)[: 2 * HEADS * width])
    head = jnp.resize(head, (2 * HEADS * width, VOCABULARY)) * 0.05
    params = {TABLE: make_table(rows, width), "head": head}
    model = foreign_tables(logits, {TABLE: partial(slots_of, rows)})
    background = measure_background(model, params, batches(4, seed=1))
    config = SparseConfig(size=BUDGET, optimizer=OptimizerConfig("adam"))
    trainer = sparse_trainer(model, config, STEPS * BUDGET)
    settings = Settings(jnp.float32(0.1), jnp.int32(BUDGET), jnp.uint32(0))
    shared = Shared(trainer.frozen(params), background.pools)
    state = trainer.begin(params, settings)
    del params  # the step takes over the table
    step, seconds = jax.jit(trainer.step, donate_argnums=1), []
    for number in range(STEPS):
        batch = Batch(*(field[number] for field in batches(STEPS, seed=2)))
        began = time.monotonic()
        state, _ = jax.block_until_ready(step(shared, state, batch, settings))
        seconds.append(time.monotonic() - began)
    peak = peak_bytes()
    moved = np.zeros(rows, bool)
    for number in range(rows // CHUNK):
        part = np.asarray(state.tables[TABLE][number * CHUNK : (number + 1) * CHUNK])
        differs = part.view(np.uint32) != chunk_of(number, width).view(np.uint32)
        moved[number * CHUNK : (number + 1) * CHUNK] = differs.any(axis=1)
    written = np.asarray(state.written[TABLE])
    return {
        "backend": jax.default_backend(),
        "rows": rows,
        "width": width,
        "table_gib": rows * width * 4 / 2**30,
        "peak_beyond_table_gib": (peak - before - rows * width * 4) / 2**30,
        "optimizer_state_bytes": count_bytes(state.stores),
        "accepted": int(state.failed_step) < 0,
        "rows_written": int(written.sum()),
        "rows_moved": int(moved.sum()),
        "other_rows_identical": bool((moved <= written).all()),
        "step_seconds": float(np.median(seconds[1:])),
    }


def main(rows: str = "65536", width: str = "64") -> int:
    """Prints one line of JSON; 1 if a row changed that no step wrote, or a step was refused.

    Also if the process held more beyond the table than it may.
    """
    found = measure(int(rows), int(width))
    print(json.dumps(found))
    is_small = found["peak_beyond_table_gib"] <= BEYOND_TABLE
    return 0 if found["accepted"] and found["other_rows_identical"] and is_small else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
