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

# Heads, tokens, keys a half, reads: more keys than groups and fewer; no block, one and several.
SHAPES = [
    (1, 1, 1, 1),
    (2, 3, 5, 5),
    (3, 40, 33, 2),
    (2, 17, 64, 32),
    (1, 5, 130, 32),
    (1, 3, 400, 7),
    (1, 2, 700, 300),
    (2, 0, 9, 4),
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
    zeros = found[0][found[0] == 0]
    assert not np.signbit(zeros).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("h", "t", "n", "k"), SHAPES)
def test_the_best_are_those_of_top_k(h, t, n, k, dtype):
    rng = np.random.default_rng(n)
    with jax.enable_x64(dtype == np.float64):
        for largest in (0, 2, 10**6):
            require_best(rng.integers(-largest, largest + 1, (h, 2, t, n)).astype(dtype), k)


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "special",
    [
        (0.0, -0.0, -1.0),
        (-np.inf, -0.0, 0.0, -1.0),
        (-np.nan, -np.inf, -1.0),
        (-np.nan, -np.inf, 0.0, 1.0, np.inf),
        (-np.nan, 1.0, np.inf, np.nan),
    ],
)
def test_infinities_zeros_and_nan_stand_where_top_k_puts_them(special, dtype, half):
    rng = np.random.default_rng(0)
    scores = rng.integers(-1, 2, (2, 2, 30, 12)).astype(dtype)
    # The last is rare: where it is the best it would leave no room for the others.
    odds = np.asarray([1.0] * (len(special) - 1) + [0.1])
    drawn = rng.choice(len(special), (2, 30, 12), p=odds / odds.sum())
    scores[:, half] = np.asarray(special, dtype)[drawn]
    with jax.enable_x64(dtype == np.float64):
        require_best(scores, 9)


@pytest.mark.parametrize("large", [slice(None, None, 32), slice(0, 300), slice(700, None)])
def test_large_scores_may_stand_anywhere(large):
    """All in one group, so that the bound is low, or side by side."""
    scores = np.random.default_rng(0).standard_normal((1, 2, 4, 1000)).astype(np.float32)
    scores[..., large] += 100
    require_best(scores, 16)
    require_best(np.sort(scores), 16)


def test_in_shard_map_the_best_differ_between_devices():
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:4]), ("d",))
    scores = np.random.default_rng(0).standard_normal((2, 2, 8, 20)).astype(np.float32)
    spec = jax.P(None, None, "d")
    find = jax.shard_map(partial(best_slots, k=4), mesh=mesh, in_specs=spec, out_specs=jax.P("d"))
    for array, truth in zip(jax.jit(find)(scores), best_slots(jnp.asarray(scores), 4), strict=True):
        np.testing.assert_array_equal(array, truth)


def test_slots_beyond_int32_are_refused():
    with pytest.raises(jax.errors.JaxRuntimeError, match="do not fit in 32 bits"):
        jax.block_until_ready(best_slots(jnp.zeros((1, 2, 1, 46_341)), 1))


@pytest.mark.parametrize(("halves", "k"), [(2, 6), (3, 2)])
@pytest.mark.usefixtures("unchecked_shapes")
def test_other_shapes_are_refused(halves, k):
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"expected scores \(h, 2, t, n\)"):
        jax.block_until_ready(best_slots(jnp.zeros((1, halves, 3, 5)), k))
