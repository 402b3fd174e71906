"""The kernel for CPUs finds what `lax.top_k` finds, ties and all."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from smf_jax.cpu_kernels.best_slots import best_slots

pytestmark = pytest.mark.usefixtures("kernels")

# Heads, tokens, keys a half, reads: more keys than groups and fewer, one block and several.
SHAPES = [
    (1, 1, 1, 1),
    (2, 3, 5, 5),
    (3, 40, 33, 2),
    (2, 17, 64, 32),
    (1, 5, 130, 32),
    (1, 3, 400, 7),
]


def expected(half_scores, k):
    """As the paper writes it (1907.05242, section 3.1): all k × k pairs, by `lax.top_k`."""
    n = half_scores.shape[-1]
    halves = jnp.where(half_scores == 0, 0, half_scores).transpose(1, 2, 0, 3)
    (first, i), (second, j) = lax.top_k(halves[0], k), lax.top_k(halves[1], k)
    sums = (first[..., :, None] + second[..., None, :]).reshape(*first.shape[:2], k * k)
    best, winners = lax.top_k(sums, k)
    i, j = (jnp.take_along_axis(a, b, -1) for a, b in ((i, winners // k), (j, winners % k)))
    return best, i * n + j


def require_best(half_scores, k):
    found = jax.jit(partial(best_slots, k=k))(half_scores)
    for array, truth in zip(found, jax.jit(partial(expected, k=k))(half_scores), strict=True):
        assert array.dtype == truth.dtype
        np.testing.assert_array_equal(array, truth)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("h", "t", "n", "k"), SHAPES)
def test_the_best_are_those_of_top_k(h, t, n, k, dtype):
    rng = np.random.default_rng(n)
    with jax.enable_x64(dtype == np.float64):
        for largest in (0, 2, 10**6):
            require_best(rng.integers(-largest, largest + 1, (h, 2, t, n)).astype(dtype), k)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_infinities_zeros_and_nan_stand_where_top_k_puts_them(dtype):
    tiny = np.finfo(dtype).tiny
    special = np.asarray([np.inf, -np.inf, 0, -0.0, np.nan, -np.nan, 1, tiny], dtype)
    scores = np.random.default_rng(0).standard_normal((2, 2, 30, 50)).astype(dtype)
    scores[:, 0] = np.random.default_rng(1).choice(special, (2, 30, 50))
    with jax.enable_x64(dtype == np.float64):
        require_best(scores, 9)


@pytest.mark.parametrize("large", [slice(None, None, 32), slice(0, 300), slice(700, None)])
def test_large_scores_may_stand_anywhere(large):
    """All in one group, so that the bound is low, or side by side."""
    scores = np.random.default_rng(0).standard_normal((1, 2, 4, 1000)).astype(np.float32)
    scores[..., large] += 100
    require_best(scores, 16)
    require_best(np.sort(scores), 16)


def test_vmap_takes_one_after_another():
    scores = np.random.default_rng(0).standard_normal((3, 2, 2, 5, 20)).astype(np.float32)
    of_all = jax.vmap(partial(best_slots, k=4))(scores)
    for one, scores_of_one in enumerate(scores):
        for array, truth in zip(of_all, best_slots(scores_of_one, 4), strict=True):
            np.testing.assert_array_equal(array[one], truth)


@pytest.mark.parametrize(("halves", "k"), [(2, 6), (3, 2)])
def test_other_shapes_are_refused(halves, k):
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"expected scores \(h, 2, t, n\)"):
        jax.block_until_ready(best_slots(jnp.zeros((1, halves, 3, 5)), k))
