"""Slots of n-grams against Python's whole numbers, and the last ids past pads and packed rows."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from smf_jax.memory.ngrams import NONE, multipliers, ngram_slots, recent_tokens

RNG = np.random.default_rng(0)
recent_of = jax.jit(recent_tokens, static_argnums=2)
MASK = 2**32 - 1


def mixed(bits):
    """The finalizer of MurmurHash3 on one whole number."""
    bits = (bits ^ bits >> 16) * 0x85EBCA6B & MASK
    bits = (bits ^ bits >> 13) * 0xC2B2AE35 & MASK
    return bits ^ bits >> 16


def slots_by_formula(recent, heads, table_slots):
    """One number after the other, without 32-bit types."""
    longest = len(recent)
    orders = longest - 1
    share, slots = table_slots // (heads * orders), []
    for head in range(heads):
        for order in range(2, longest + 1):
            number = head * orders + order - 2
            total = 0
            for back in range(order):
                multiple = (1 + number * longest + back) * 0x9E3779B9 & MASK
                total ^= (recent[back] + 1) * (mixed(multiple) | 1) & MASK
            slots.append(number * share + mixed(total) % share)
    return np.reshape(slots, (heads, orders))


@pytest.mark.parametrize(
    ("heads", "longest", "table_slots"), [(1, 2, 7), (3, 3, 1000), (8, 4, 2**24)]
)
def test_slots_follow_their_formula(heads, longest, table_slots):
    recent = RNG.integers(NONE, 150_000, (20, longest)).astype(np.int32)
    found = np.asarray(jax.jit(ngram_slots, static_argnums=(1, 2))(recent, heads, table_slots))
    truth = [slots_by_formula(each, heads, table_slots) for each in recent.tolist()]
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, truth)


def test_every_head_and_order_has_a_part_of_its_own_that_it_uses_evenly():
    heads, orders, table_slots = 2, 2, 4 * 64
    recent = RNG.integers(0, 50_000, (6400, 3)).astype(np.int32)
    found = jax.jit(ngram_slots, static_argnums=(1, 2))(recent, heads, table_slots).reshape(
        -1, heads * orders
    )
    for number, of_part in enumerate(np.asarray(found).T):
        counts = np.bincount(of_part - number * 64, minlength=64)
        assert len(counts) == 64
        # 100 are expected in each, a standard deviation is 10.
        assert counts.min() > 50 and counts.max() < 150


def test_constants_are_odd_and_differ():
    found = np.asarray(multipliers(8, 3))
    assert found.shape == (8, 3, 4) and (found % 2 == 1).all()
    assert len(np.unique(found)) == found.size


def recent_by_loop(tokens, sequence, count, before):
    """Token by token: the ids of one sequence alone, the latest first."""
    found = np.full((*tokens.shape, count), NONE)
    for row in range(len(tokens)):
        past, own = list(before[row]), 1
        for place, token in enumerate(tokens[row]):
            if not sequence[row, place]:
                continue
            if sequence[row, place] != own:
                past, own = [], sequence[row, place]
            past.append(token)
            last = past[::-1][:count]
            found[row, place, : len(last)] = last
    return found


@pytest.mark.parametrize("count", [2, 3, 5])
def test_recent_tokens_skip_pads_wherever_they_stand(count):
    tokens = RNG.integers(0, 99, (6, 9)).astype(np.int32)
    valid = RNG.random(tokens.shape) < 0.6
    valid[0], valid[1] = True, False
    none = [[]] * len(tokens)
    found = recent_of(tokens, valid, count)
    truth = recent_by_loop(tokens, valid.astype(int), count, none)
    np.testing.assert_array_equal(np.asarray(found.tokens)[valid], truth[valid])


def test_packed_sequences_do_not_see_each_other():
    tokens = RNG.integers(0, 99, (2, 8)).astype(np.int32)
    sequences = np.array([[1, 1, 1, 2, 2, 3, 0, 0], [1, 2, 2, 2, 2, 2, 2, 3]], np.int32)
    found = np.asarray(recent_of(tokens, sequences, 3).tokens)
    truth = recent_by_loop(tokens, sequences, 3, [[]] * 2)
    np.testing.assert_array_equal(found[sequences > 0], truth[sequences > 0])


def test_in_pieces_as_in_one():
    tokens = RNG.integers(0, 99, (3, 10)).astype(np.int32)
    valid = RNG.random(tokens.shape) < 0.7
    whole, before, pieces = recent_of(tokens, valid, 4), None, []
    for start, end in ((0, 5), (5, 10)):
        piece = recent_of(tokens[:, start:end], valid[:, start:end], 4, before)
        before = piece.before
        pieces.append(piece.tokens)
    np.testing.assert_array_equal(
        np.concatenate(pieces, axis=1)[valid], np.asarray(whole.tokens)[valid]
    )
    np.testing.assert_array_equal(before, whole.before)
