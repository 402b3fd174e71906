"""The questions of probes are asked in few rows, and answered as if each row were asked."""

from __future__ import annotations

import numpy as np
import pytest

from smf_jax.continual.answering import Answering
from smf_jax.data.batching import Batch
from smf_jax.evaluation.probes.exact import ExactProbe, exact_match

WIDTH = 12
# By probe, how many answers each of its questions accepts.
ACCEPTED = ([1, 3, 2], [4, 1], [2, 2, 2, 1])


def probes():
    """Rows whose first token is their own, of lengths by which two or three share a row."""
    found, begun = [], 1
    for of_probe in ACCEPTED:
        rows = sum(of_probe)
        names = np.arange(begun, begun + rows)
        valid = np.arange(WIDTH) < 3 + (names % 3)[:, None]
        tokens = np.where(valid, 100 + np.arange(WIDTH), 0)
        tokens[:, 0] = names
        weights = 1.0 * (valid & (np.arange(WIDTH) > 1))
        batch = Batch(tokens, tokens, weights, valid)
        question = np.repeat(np.arange(len(of_probe)), of_probe)
        found.append(ExactProbe(batch, question, len(of_probe)))
        begun += rows
    return found


class Told:
    """Stands for a group: trials answer the rows that they are told to, by first token."""

    def __init__(self, *right, eval_batch_size=4):
        self.right, self.size, self.calls = right, len(right), []
        self.eval_batch_size = eval_batch_size

    def answers(self, state, asked, scored=0, sequences=0):
        assert state == "state"
        rows = asked.rows
        assert sequences >= asked.number.max()
        assert scored >= np.count_nonzero(rows.weights, axis=1).max()
        firsts = np.zeros((len(rows.tokens), sequences), int)
        for row, number in np.ndindex(*firsts.shape):
            here = np.flatnonzero(rows.valid[row] == number + 1)
            firsts[row, number] = rows.tokens[row, here[0]] if here.size else 0
        self.calls.append((sorted(asked.of_sequences(firsts)), (scored, sequences), rows))
        return asked.of_sequences(np.stack([np.isin(firsts, each) for each in self.right]))


@pytest.mark.parametrize("pack", [False, True])
def test_the_shares_are_those_of_asking_every_row(pack):
    rng, every = np.random.default_rng(0), probes()
    rows = sum(map(sum, ACCEPTED))
    answering = Answering(every, pack)
    for share in (0.0, 0.2, 0.5, 1.0):
        told = [np.flatnonzero(rng.random(rows) < share) + 1 for _ in range(3)]
        trials = Told(*told)
        found = answering.shares(trials, "state", every)
        for right, of_trial in zip(told, found, strict=True):
            expected = [exact_match(p, np.isin(p.batch.tokens[:, 0], right)) for p in every]
            assert of_trial == expected


@pytest.mark.parametrize("pack", [False, True])
def test_other_answers_are_tried_only_where_the_taught_one_is_not_given(pack):
    every = probes()
    taught, answering = [1, 2, 5, 7, 11, 12, 14, 16, 18], Answering(every, pack)
    trials = Told(np.array(taught), np.array(taught))
    assert answering.shares(trials, "state", every) == [[1.0] * 3] * 2
    assert [sorted(asked) for asked, *_ in trials.calls] == [taught]
    # Of two trials one gives another answer to the second question, which both are asked then.
    trials = Told(np.array([1, 4, 5, 7, 11, 12, 14, 16, 18]), np.array(taught))
    assert answering.shares(trials, "state", every) == [[1.0] * 3] * 2
    assert [asked for asked, *_ in trials.calls] == [taught, [3, 4]]


def test_probes_that_fit_into_one_batch_are_asked_at_once():
    every = probes()
    rows = sum(map(sum, ACCEPTED))
    for room, calls in ((rows, 1), (rows - 1, 2)):
        trials = Told(np.array([4, 18]), eval_batch_size=room)
        shares = Answering(every, True).shares(trials, "state", every)
        assert shares == [[1 / 3, 0.0, 1 / 4]] and len(trials.calls) == calls


def test_no_row_has_more_targets_than_one_question_may_have():
    """Of a vocabulary of a quarter of a million, logits are what memory goes to."""
    every = probes()
    every[0].batch.weights[:] = every[0].batch.valid
    trials = Told(np.array([1]))
    Answering(every, True).shares(trials, "state", every)
    for _, (scored, sequences), rows in trials.calls:
        assert np.count_nonzero(rows.weights, axis=1).max() <= scored == 8
        assert sequences == 3


def test_one_shape_serves_whichever_probes_are_asked_and_rows_stay_as_they_are():
    every = probes()
    answering, trials = Answering(every, True), Told(np.array([1]))
    for some in (every[:1], every[1:], every):
        answering.shares(trials, "state", some)
    assert (
        len({(shape, rows.tokens.shape[1], rows.valid.dtype) for _, shape, rows in trials.calls})
        == 1
    )
    firsts = [rows for asked, _, rows in trials.calls[::2]]
    assert len(firsts) == 3 and len(firsts[2].tokens) < len(trials.calls[4][0])
    joined = np.concatenate([firsts[0].tokens, firsts[1].tokens])
    np.testing.assert_array_equal(joined, firsts[2].tokens)
