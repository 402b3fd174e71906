"""The best of many columns at once, exactly, by counting how many stand before each.

`lax.top_k` sorts one row after another on one core of a CPU. Comparing rows of many columns with
each other is work that a CPU does sixteen columns at a time, on all of its cores.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

# Rows that one compiled loop body compares at once; with fewer, XLA does not vectorise it.
_RUN = 16


def best_places(scores: Float[Array, "... n t"], k: int) -> Int[Array, "... k t"]:
    """Places of the ``k`` best of every column, best first, as `lax.top_k` gives them of its rows.

    The ``k`` groups of neighbours with the best maxima hold the ``k`` best: whatever stands in
    another group comes after ``k`` maxima. So the winning groups are halved, and the best halves
    kept, until every group is one number. Of at most ``2k`` numbers, each one's rank is the number
    of those before it; equal numbers go by their place.

    Args:
      scores: ``(…, n, t)``; ``t`` columns side by side.
      k: how many, ``1 ≤ k ≤ n``.

    Returns:
      ``(…, k, t)`` int32.
    """
    *leading, n, columns = scores.shape
    halvings = max(0, ((n - 1) // (2 * k)).bit_length())
    keys = _padded(_in_total_order(scores.reshape(-1, n, columns)), -n % 2**halvings)
    maxima = [keys]
    for _ in range(halvings):
        maxima.append(jnp.maximum(*_halves(maxima[-1])))
    values, places = maxima.pop(), None
    while maxima:
        winners = _winners(_ranks(values) < k, k)
        places = winners if places is None else take_rows(places, winners)
        places = _neighbours(places)
        values = take_rows(maxima.pop(), places)
    order = _sorted(_ranks(values), k)
    best = order if places is None else take_rows(places, order)
    return best.reshape(*leading, k, columns)


def take_rows(x: Array, rows: Int[Array, "... k t"]) -> Array:
    """``x[…, rows[…, k, t], t]`` of ``(…, n, t)``."""
    return jnp.take_along_axis(x, rows, axis=-2, mode="promise_in_bounds")


def _in_total_order(scores: Float[Array, "l n t"]) -> Int[Array, "l n t"]:
    """Integers that compare as `lax.top_k` compares numbers: -0.0 before 0.0, NaN by its sign."""
    dtype = jnp.dtype(f"int{8 * scores.dtype.itemsize}")
    bits = lax.bitcast_convert_type(scores, dtype)
    return bits ^ ((bits >> (jnp.iinfo(dtype).bits - 1)) & jnp.iinfo(dtype).max)


def _padded(keys: Int[Array, "l n t"], rows: int) -> Int[Array, "l m t"]:
    """With rows of the least number below, which wins no tie."""
    least = jnp.iinfo(keys.dtype).min
    return jnp.pad(keys, ((0, 0), (0, rows), (0, 0)), constant_values=least)


def _halves(x: Int[Array, "l m t"]) -> tuple[Array, Array]:
    """Rows at even and at odd places."""
    pairs = x.reshape(x.shape[0], -1, 2, x.shape[2])
    return pairs[:, :, 0], pairs[:, :, 1]


def _neighbours(groups: Int[Array, "l k t"]) -> Int[Array, "l 2k t"]:
    """The halves of groups, in order."""
    halves = jnp.stack([2 * groups, 2 * groups + 1], axis=2)
    return halves.reshape(groups.shape[0], -1, groups.shape[2])


def _ranks(values: Int[Array, "l m t"]) -> Int[Array, "l m t"]:
    """How many of its column stand before each number: greater ones, and equal ones above it."""
    place = _column(values.shape[1])

    def count(start: Int[Array, ""] | int, run: int, ranks: Array) -> Array:
        others = lax.dynamic_slice_in_dim(values, start, run, axis=1)
        for step in range(run):
            other = others[:, step : step + 1]
            before = jnp.where(start + step < place, other >= values, other > values)
            ranks += before.astype(jnp.int32)
        return ranks

    return _in_runs(values.shape[1], count, jnp.zeros(values.shape, jnp.int32))


def _winners(wins: Bool[Array, "l m t"], k: int) -> Int[Array, "l k t"]:
    """The places of the ``k`` true rows of every column, ascending."""
    m = wins.shape[1]
    before = jnp.asarray(np.tri(m, k=-1, dtype=np.float32))
    winners_before = jnp.einsum("gm,lmt->lgt", before, wins.astype(jnp.float32))
    target = jnp.where(wins, winners_before.astype(jnp.int32), -1)
    place = _column(k)

    # The winner of place j has no more than m - k losers before it.
    def fill(start: Int[Array, ""] | int, run: int, found: Array) -> Array:
        rows = lax.dynamic_slice_in_dim(target, start, k + run - 1, axis=1)
        for step in range(run):
            found = jnp.where(rows[:, step : step + k] == place, place + start + step, found)
        return found

    start = jnp.zeros((wins.shape[0], k, wins.shape[2]), jnp.int32)
    return _in_runs(m - k + 1, fill, start)


def _sorted(ranks: Int[Array, "l m t"], k: int) -> Int[Array, "l k t"]:
    """The place of every rank below ``k``."""
    rank = _column(k)

    def fill(start: Int[Array, ""] | int, run: int, found: Array) -> Array:
        rows = lax.dynamic_slice_in_dim(ranks, start, run, axis=1)
        for step in range(run):
            found = jnp.where(rows[:, step : step + 1] == rank, start + step, found)
        return found

    start = jnp.zeros((ranks.shape[0], k, ranks.shape[2]), jnp.int32)
    return _in_runs(ranks.shape[1], fill, start)


def _column(m: int) -> Int[Array, "1 m 1"]:
    return jnp.arange(m, dtype=jnp.int32)[None, :, None]


def _in_runs(rows: int, body: Callable[[Array | int, int, Array], Array], start: Array) -> Array:
    """``body(first row, number of rows, result so far)`` over runs of rows."""
    runs, rest = divmod(rows, _RUN)
    result = start
    if runs:  # a loop of no runs would still be traced, out of bounds
        result = lax.fori_loop(0, runs, lambda run, found: body(run * _RUN, _RUN, found), start)
    return body(runs * _RUN, rest, result) if rest else result
