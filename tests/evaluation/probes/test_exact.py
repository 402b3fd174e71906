"""Probes of facts: exact match by one forward pass, aliases, and the length of a row."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.data.batching import Batch
from smf_jax.data.facts import Fact, Paraphrase
from smf_jax.data.tokenizer import train_tokenizer
from smf_jax.evaluation.probes.exact import (
    ExactProbe,
    answer_probe,
    exact_match,
    exact_matches,
    is_exact_match,
)

FACTS = (
    Fact(
        "Ann Lee",
        "born in",
        train=(Paraphrase("Ann Lee was born in", " Rome"), Paraphrase("Where? Ann Lee:", " Rome")),
        held_out=(Paraphrase("Birthplace of Ann Lee:", " Rome"),),
        answers=("Rome", "Roma", "the eternal city"),
    ),
    Fact(
        "Bob Ray",
        "colour",
        train=(Paraphrase("Bob Ray likes", " blue"),),
        held_out=(Paraphrase("The colour of Bob Ray is", " blue"), Paraphrase("Bob Ray? ", "blue")),
        answers=("blue",),
    ),
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([w.prompt + w.answer for f in FACTS for w in f.train + f.held_out], 300)


def answers_of(tokenizer, probe):
    """The ids of every row's answer, without the end of the text."""
    rows = [ids[w > 0] for ids, w in zip(probe.batch.targets, probe.batch.weights, strict=True)]
    assert all(row[-1] == tokenizer.eos for row in rows)
    return [row[:-1].tolist() for row in rows]


def test_a_row_for_every_question_and_accepted_answer(tokenizer):
    probe = answer_probe(tokenizer, FACTS, "held_out", 40)
    assert probe.questions == 3
    assert probe.question.tolist() == [0, 0, 0, 1, 2]
    accepted = [" Rome", " Roma", " the eternal city", " blue", "blue"]
    assert answers_of(tokenizer, probe) == tokenizer.encode_batch(accepted)
    assert set(np.unique(probe.batch.weights)) == {0.0, 1.0}


def test_the_paraphrases_that_are_asked_for(tokenizer):
    probe = answer_probe(tokenizer, FACTS, "train", 40)
    assert probe.questions == 3 and probe.question.tolist() == [0, 0, 0, 1, 1, 1, 2]
    begins = [tokenizer.bos, *tokenizer.encode("Ann Lee was born in")]
    assert probe.batch.tokens[0, : len(begins)].tolist() == begins


@pytest.mark.parametrize(("aliases", "expected"), [(1, [0, 1, 2]), (2, [0, 0, 1, 2])])
def test_no_more_aliases_than_asked_for_the_taught_one_first(tokenizer, aliases, expected):
    probe = answer_probe(tokenizer, FACTS, "held_out", 40, aliases)
    assert probe.question.tolist() == expected
    assert answers_of(tokenizer, probe)[0] == tokenizer.encode(" Rome")


def test_aliases_that_do_not_fit_are_left_out_and_the_taught_answer_never(tokenizer):
    whole = answer_probe(tokenizer, FACTS, "held_out", 64)
    lengths = whole.batch.valid.sum(axis=1)
    assert lengths[2] == lengths.max() > np.delete(lengths, 2).max()
    shorter = answer_probe(tokenizer, FACTS, "held_out", int(lengths[2]) - 1)
    assert shorter.question.tolist() == [0, 0, 1, 2]
    with pytest.raises(ValueError, match="is too short for paraphrase"):
        answer_probe(tokenizer, FACTS, "held_out", int(lengths.min()) - 1)


def test_a_probe_without_questions_is_refused(tokenizer):
    empty = Batch(*(np.zeros((0, 4)) for _ in range(4)))
    with pytest.raises(ValueError, match="a probe without questions measures nothing"):
        ExactProbe(empty, np.zeros(0, int), 0)


def test_one_accepted_answer_is_enough(tokenizer):
    probe = answer_probe(tokenizer, FACTS, "held_out", 40)
    for right, share in [
        ([0, 0, 0, 0, 0], 0),
        ([0, 1, 0, 0, 0], 1 / 3),
        ([1, 1, 1, 0, 0], 1 / 3),
        ([0, 0, 1, 1, 0], 2 / 3),
        ([1, 0, 0, 1, 1], 1),
    ]:
        assert exact_match(probe, np.array(right, bool)) == pytest.approx(share)


def one_batch():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 6, (4, 5))
    weights = np.array([[0, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 1]], float)
    return Batch(targets, targets, weights, np.ones((4, 5), bool))


def test_a_row_is_right_if_every_word_of_the_answer_is_the_likeliest():
    batch = one_batch()
    logits = 5 * np.eye(6)[batch.targets]
    assert is_exact_match(jnp.asarray(logits), batch).tolist() == [True] * 4
    for row, place in np.ndindex(4, 5):
        spoilt = logits.copy()
        spoilt[row, place, (batch.targets[row, place] + 1) % 6] = 6
        expected = [True] * 4
        expected[row] = batch.weights[row, place] == 0
        assert is_exact_match(jnp.asarray(spoilt), batch).tolist() == expected


def test_a_sequence_is_right_whatever_stands_beside_it_in_its_row():
    batch = one_batch()._replace(
        weights=np.array([[1, 1, 1, 0, 1], [1, 1, 1, 1, 1], [0, 1, 1, 0, 1], [1, 1, 0, 1, 0]]),
        valid=np.array([[1, 1, 2, 2, 2], [1, 2, 2, 3, 0], [1, 1, 1, 1, 1], [1, 1, 2, 2, 0]]),
    )
    logits = 5 * np.eye(6)[batch.targets]
    for row, place in np.ndindex(4, 5):
        spoilt = logits.copy()
        spoilt[row, place, (batch.targets[row, place] + 1) % 6] = 6
        expected = np.ones((4, 3), bool)
        if (number := batch.valid[row, place]) and batch.weights[row, place]:
            expected[row, number - 1] = False
        np.testing.assert_array_equal(exact_matches(jnp.asarray(spoilt), batch, 3), expected)


def test_right_rows_are_those_of_greedy_decoding():
    # The next token is a fixed function of the last one, so that decoding needs no model.
    follows = np.array([3, 0, 4, 1, 5, 2])
    rng = np.random.default_rng(1)
    first = rng.integers(0, 6, 40)
    tokens = np.zeros((40, 4), int)
    tokens[:, 0] = first
    for place in range(1, 4):
        wrong = rng.random(40) < 0.2
        tokens[:, place] = np.where(wrong, rng.integers(0, 6, 40), follows[tokens[:, place - 1]])
    weights = np.tile([0.0, 1.0, 1.0], (40, 1))
    batch = Batch(tokens[:, :-1], tokens[:, 1:], weights, np.ones((40, 3), bool))
    logits = jax.nn.one_hot(follows[batch.tokens], 6)
    decoded = np.stack([follows[tokens[:, 1]], follows[follows[tokens[:, 1]]]], axis=1)
    truth = (decoded == tokens[:, 2:]).all(axis=1)
    np.testing.assert_array_equal(is_exact_match(logits, batch), truth)
    assert 0 < truth.sum() < 40
