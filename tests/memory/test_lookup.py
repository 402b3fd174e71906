"""The forms of the lookup find the same slots in the same order, whatever the pieces are."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.memory import lookup
from smf_jax.memory.lookup import (
    candidate_pairs,
    gradients,
    look_up_by_comparing,
    look_up_by_kernel,
    look_up_by_sorting,
    look_up_on_cpu,
    spread_by_comparing,
    spread_by_index,
)
from tests import oracles

FORMS = {
    "sorting": look_up_by_sorting,
    "comparing": look_up_by_comparing,
    "kernel": look_up_by_kernel,
}
# Tokens, heads, keys a half, their width, reads.
SHAPES = [(7, 2, 12, 4, 5), (5, 1, 3, 2, 3), (4, 3, 70, 3, 9), (6, 2, 33, 4, 1)]


def exact_case(t, h, n, c, ties, seed=0):
    """Eighths: every product and sum is exact, in whatever order a program takes them."""
    rng = np.random.default_rng(seed)
    case = (rng.standard_normal((t, h, 2, c)), rng.standard_normal((h, 2, n, c)))
    grid = [np.sign(np.round(array)) if ties else np.round(array * 8) / 8 for array in case]
    return [array.astype(np.float32) for array in grid]


@pytest.mark.parametrize("k", [*range(1, 18), 32, 33])
def test_candidate_pairs_hold_every_winner_in_order(k):
    rows, columns = candidate_pairs(k)
    places = rows * k + columns
    assert len(rows) == sum(k // i for i in range(1, k + 1))
    assert (np.diff(places) > 0).all()
    rng = np.random.default_rng(k)
    for largest in (1, 3, 1000):
        first, second = -np.sort(rng.integers(0, largest + 1, (2, k)), axis=1)
        sums = (first[:, None] + second[None, :]).reshape(-1)
        best = np.argsort(-sums, kind="stable")[:k]
        np.testing.assert_array_equal(
            best, places[np.argsort(-sums[places], kind="stable")[:k]], err_msg=str(largest)
        )


def test_no_candidate_pair_is_superfluous():
    # Lists that drop after the places i and j make the pair (i, j) the last of the winners.
    k = 9
    for i, j in zip(*candidate_pairs(k), strict=True):
        first, second = np.where(np.arange(k) <= i, 0, -5), np.where(np.arange(k) <= j, 0, -5)
        sums = (first[:, None] + second[None, :]).reshape(-1)
        assert i * k + j in np.argsort(-sums, kind="stable")[:k]


@pytest.mark.parametrize(("t", "h", "n", "c", "k"), SHAPES)
@pytest.mark.parametrize(
    ("form", "tokens_of_a_piece"),
    [("sorting", 0), ("comparing", 3), ("comparing", 100), ("kernel", 3), ("kernel", 100)],
)
def test_forms_find_the_same_in_the_same_order(
    request, monkeypatch, form, tokens_of_a_piece, t, h, n, c, k
):
    monkeypatch.setattr(lookup, "PIECE_BYTES", tokens_of_a_piece * 2 * h * n * 4)
    if form == "kernel":
        request.getfixturevalue("kernels")
    find = jax.jit(partial(FORMS[form], k=k))
    for ties in (False, True):
        queries, keys = exact_case(t, h, n, c, ties)
        found = find(queries, keys)
        truth = oracles.product_form_lookup(queries, keys, k)
        np.testing.assert_array_equal(found.slots, truth.slots, err_msg=f"ties={ties}")
        np.testing.assert_array_equal(found.scores, truth.scores)


@pytest.mark.parametrize("built", [True, False])
def test_a_cpu_sorts_where_its_kernel_is_missing(monkeypatch, built):
    monkeypatch.setattr(lookup, "is_available", lambda: built)
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in [(8, 2, 2, 4), (2, 2, 16, 4)]]
    program = jax.jit(partial(look_up_on_cpu, k=4)).lower(*shapes).as_text()
    assert ("best_slots" in program) == built
    assert ("top_k" in program) == (not built)


@pytest.mark.parametrize("spread", [spread_by_index, spread_by_comparing])
@pytest.mark.parametrize("tokens_of_a_piece", [1, 3, 100])
def test_forms_of_the_gradient(spread, tokens_of_a_piece):
    t, h, n, c, k = 7, 2, 12, 4, 5
    queries, keys = exact_case(t, h, n, c, ties=False)
    rng = np.random.default_rng(1)
    slots = rng.integers(0, n * n, (t, h, k)).astype(np.int32)
    cotangent = np.round(rng.standard_normal((t, h, k)) * 8).astype(np.float32) / 8
    piece_bytes = tokens_of_a_piece * 2 * h * n * 4
    form = partial(gradients, spread=spread, piece_bytes=piece_bytes)
    of_queries, of_keys = form(*map(jnp.asarray, (queries, keys, slots, cotangent)))
    expected_queries, expected_keys = np.zeros(queries.shape), np.zeros(keys.shape)
    for half, chosen in enumerate((slots // n, slots % n)):
        for token, head, read in np.ndindex(slots.shape):
            g, key = cotangent[token, head, read], chosen[token, head, read]
            expected_queries[token, head, half] += g * keys[head, half, key]
            expected_keys[head, half, key] += g * queries[token, head, half]
    np.testing.assert_array_equal(of_queries, expected_queries)
    np.testing.assert_array_equal(of_keys, expected_keys)
