"""The best places of columns are those that `lax.top_k` finds in rows, ties and all."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.memory.top_places import best_places, take_rows

# More, fewer and as many rows as twice the reads, with runs of 16 rows that end evenly or do not.
SIZES = [(1, 1), (5, 5), (9, 2), (32, 16), (33, 16), (64, 8), (100, 7), (130, 32), (257, 3)]


def expected(scores, k):
    return np.moveaxis(jax.lax.top_k(np.moveaxis(scores, -2, -1), k)[1], -1, -2)


@pytest.mark.parametrize(("n", "k"), SIZES)
def test_places_are_those_of_top_k(n, k):
    find = jax.jit(partial(best_places, k=k))
    for largest in (0, 2, 10**6):
        scores = np.random.default_rng(n).integers(-largest, largest + 1, (2, n, 6))
        found = find(scores.astype(np.float32))
        assert found.dtype == jnp.int32
        np.testing.assert_array_equal(found, expected(scores.astype(np.float32), k))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_infinities_zeros_and_nan_stand_where_top_k_puts_them(dtype):
    special = [np.inf, -np.inf, 0.0, -0.0, np.nan, -np.nan, 1.0, np.finfo(dtype).tiny]
    rng = np.random.default_rng(0)
    scores = rng.choice(np.asarray(special, dtype), (3, 40, 50))
    scores[0] = -np.inf  # as low as rows of padding may seem
    with jax.enable_x64(dtype == np.float64):
        found = jax.jit(partial(best_places, k=9))(scores)
        np.testing.assert_array_equal(found, expected(scores, 9))


def test_rows_are_taken_column_by_column():
    x = np.arange(24).reshape(2, 4, 3)
    rows = np.asarray([[[3, 0, 1], [1, 1, 2]]] * 2)
    np.testing.assert_array_equal(take_rows(jnp.asarray(x), rows), np.take_along_axis(x, rows, 1))
