"""Correctness before timing: a block's lookup, read, selection and rows against float64 NumPy."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import block
from benchmarks.block import Block
from benchmarks.costs import BlockShape
from smf_jax.memory.product_keys import product_key_lookup
from smf_jax.memory.reading import read
from smf_jax.shapes import Table
from smf_jax.sparse.rows import ReadTrace

# So many tokens are gathered in float64: all of a large batch would take gigabytes.
_TOKENS = 64
_ROUNDING = {"float32": 1e-5, "bfloat16": 2.0**-7, "float16": 2.0**-9}


def verify_block(given: Block, table: Table) -> dict[str, float]:
    """Compares one step of a block with float64 NumPy.

    Args:
      given: the block.
      table: its table, which is left as it is.

    Returns:
      By what was compared, the largest difference as a share of the largest value.

    Raises:
      RuntimeError: naming what differs by more than rounding explains.
    """
    shape = given.shape
    trace = block.traces(given, table)[0]
    selected = jax.jit(partial(block.select, shape))(trace, given.usage)
    rows = jax.jit(partial(block.gradient_of_rows, shape))(trace, selected)
    differences = {
        "lookup": _lookup_difference(shape),
        "read": _read_difference(shape, table, trace),
        "selection": _selection_difference(given, trace, np.asarray(selected)),
        "row gradient": _gradient_difference(trace, np.asarray(selected), np.asarray(rows)),
        "written rows": _write_difference(given, table, selected, rows),
    }
    narrow = _ROUNDING[jnp.dtype(shape.dtype).name]
    allowed = {"lookup": 1e-5, "selection": 1e-5, "row gradient": 1e-4}
    for what, difference in differences.items():
        limit = allowed.get(what, narrow)
        if not difference <= limit:
            raise RuntimeError(
                f"{what} differs from float64 by {difference:.2g} of the largest value, more than "
                f"{limit:.2g}: nothing is timed that is wrong"
            )
    return differences


def _lookup_difference(shape: BlockShape) -> float:
    """Of the sorted scores: slots may differ where two scores are closer than rounding."""
    memory = shape.memory
    rng = np.random.default_rng(0)
    half = memory.key_width // 2
    queries = rng.standard_normal((_TOKENS, memory.heads, 2, half), np.float32)
    keys = rng.standard_normal((memory.heads, 2, memory.keys_per_half, half), np.float32)
    found = jax.jit(partial(product_key_lookup, k=memory.reads))(queries, keys)
    scores = np.einsum("thpc,hpnc->pthn", queries.astype(np.float64), keys.astype(np.float64))
    # The best k sums lie among the best k of each half.
    best = np.sort(scores, axis=-1)[..., ::-1][..., : memory.reads]
    sums = (best[0][..., :, None] + best[1][..., None, :]).reshape(*best[0].shape[:2], -1)
    expected = np.sort(sums, axis=-1)[..., ::-1][..., : memory.reads]
    first, second = np.divmod(np.asarray(found.slots), memory.keys_per_half)
    chosen = np.take_along_axis(scores[0], first, -1) + np.take_along_axis(scores[1], second, -1)
    return _difference(np.stack([np.asarray(found.scores), chosen]), np.stack([expected] * 2))


def _read_difference(shape: BlockShape, table: Table, trace: ReadTrace) -> float:
    slots, weights = trace.slots[:_TOKENS], trace.weights[:_TOKENS]
    found = jax.jit(read)(table, slots, weights)
    gathered = np.asarray(table[slots], np.float64)
    return _difference(found, np.einsum("tr,trv->tv", np.asarray(weights, np.float64), gathered))


def _selection_difference(given: Block, trace: ReadTrace, selected: np.ndarray) -> float:
    """Of the sorted scores of the slots: equal ones may stand for each other."""
    shape, usage = given.shape, given.usage
    counts = np.bincount(np.asarray(trace.slots).ravel(), minlength=shape.slots)
    batches = int(usage.batches)
    df = np.asarray(usage.document_frequency, np.float64)
    scores = counts / counts.sum() * np.log((batches + 1) / (df + 1))
    accessed = np.flatnonzero(counts)
    expected = np.sort(scores[accessed])[::-1][: shape.budget]
    chosen = selected[selected < shape.slots]
    if len(chosen) != len(expected) or not counts[chosen].all() or len(set(chosen)) < len(chosen):
        return float("inf")
    return _difference(np.sort(scores[chosen])[::-1], expected)


def _gradient_difference(trace: ReadTrace, selected: np.ndarray, rows: np.ndarray) -> float:
    slots, weights = np.asarray(trace.slots), np.asarray(trace.weights, np.float64)
    cotangent = np.asarray(trace.cotangent, np.float64)
    order = np.argsort(selected, kind="stable")
    in_order = selected[order]
    found = np.minimum(np.searchsorted(in_order, slots), len(selected) - 1)
    place = np.where(in_order[found] == slots, order[found], len(selected))
    matrix = np.zeros((len(selected) + 1, len(slots)))
    np.add.at(matrix, (place, np.arange(len(slots))[:, None]), weights)
    return _difference(rows, matrix[:-1] @ cotangent)


def _write_difference(given: Block, table: Table, selected: jax.Array, rows: jax.Array) -> float:
    """Of the written rows; infinite if any other row lost a bit."""
    store = given.store(table)
    written, _ = jax.jit(block.write)((table, store), selected, rows)
    chosen = np.asarray(selected)
    chosen = chosen[chosen < given.shape.slots]
    # Compared on the device, where the tables are.
    others = jnp.any(written != table, axis=1).at[jnp.asarray(chosen)].set(False)
    if bool(jnp.any(others)):
        return float("inf")
    before = np.asarray(table[chosen], np.float64)
    step = block.LEARNING_RATE * np.asarray(rows, np.float64)[: len(chosen)]
    return _difference(np.asarray(written[chosen], np.float64), before - step)


def _difference(found: object, expected: np.ndarray) -> float:
    scale = max(float(np.max(np.abs(expected), initial=0)), 1e-30)
    return float(np.max(np.abs(np.asarray(found, np.float64) - expected), initial=0)) / scale
