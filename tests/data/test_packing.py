"""Several sequences to a row: none is lost, none is cut, and groups stay apart."""

import numpy as np
import pytest

from smf_jax.data.batching import Batch
from smf_jax.data.packing import one_to_a_row, pack_rows


def examples(lengths, width=10) -> Batch:
    rng = np.random.default_rng(0)
    valid = np.arange(width) < np.asarray(lengths)[:, None]
    tokens, targets = rng.integers(1, 99, (2, *valid.shape)).astype(np.int32) * valid
    return Batch(tokens, targets, rng.random(valid.shape, np.float32) * valid, valid)


def sequences(batch: Batch) -> list[tuple]:
    """Tokens, targets and weights of every sequence, in an order of their own."""
    found = []
    for tokens, targets, weights, numbers in zip(*batch, strict=True):
        for number in range(1, int(numbers.max()) + 1):
            here = numbers == number
            assert np.diff(np.flatnonzero(here)).max(initial=1) == 1, "a sequence is in one piece"
            found.append(tuple(map(tuple, (tokens[here], targets[here], weights[here]))))
    return sorted(found)


@pytest.mark.parametrize(
    ("lengths", "groups", "taken"),
    [
        ([3, 3, 4, 10, 5, 5], [6], [3]),
        ([3, 3, 4, 10, 5, 5], [3, 3], [1, 2]),
        ([6, 6, 6], [3], [3]),
        ([1], [1], [1]),
    ],
)
def test_every_sequence_is_in_a_row_of_its_group(lengths, groups, taken):
    given = examples(lengths)
    packed, counts, *_ = pack_rows(given, groups)
    assert counts == taken and packed.tokens.shape == (sum(taken), 10)
    assert packed.valid.dtype == np.int32
    start, row = 0, 0
    for size, rows in zip(groups, counts, strict=True):
        of_group = given._replace(valid=given.valid.astype(int))
        own = Batch(*(field[start : start + size] for field in of_group))
        assert sequences(Batch(*(field[row : row + rows] for field in packed))) == sequences(own)
        start, row = start + size, row + rows
    for field in packed[:3]:
        assert not np.any(field[packed.valid == 0])


def test_a_row_has_no_more_targets_than_told():
    given = examples([3, 3, 4, 10, 5, 5])
    given.weights[:] = given.valid
    for scored, rows in ((10, 3), (12, 3), (9, 4)):
        given.weights[3, 9:] = scored > 9
        packed = pack_rows(given, [6], scored).rows
        counts = np.count_nonzero(packed.weights, axis=1)
        assert counts.max() <= scored and len(counts) == rows
        assert sequences(packed) == sequences(given._replace(valid=given.valid.astype(int)))


@pytest.mark.parametrize("pack", [pack_rows, one_to_a_row])
def test_what_was_found_of_a_row_is_told_of_its_sequences(pack):
    given = examples([3, 3, 4, 10, 5, 5])
    packed = pack(given, [3, 3])
    sums = np.stack([np.sum(packed.rows.tokens * (packed.rows.valid == n), 1) for n in (1, 2, 3)])
    found = packed.of_sequences(np.stack([sums.T, -sums.T]))
    expected = given.tokens.sum(axis=1)
    np.testing.assert_array_equal(found, [expected, -expected])
