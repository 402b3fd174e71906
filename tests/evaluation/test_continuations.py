"""Prompts and what follows: how they are cut into tokens, laid out and scored."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.data.batching import Batch
from smf_jax.evaluation.continuations import (
    count_cut,
    encode_pairs,
    pair_rows,
    row_scores,
)
from tests.evaluation.tiny import tokenizer


def test_what_follows_is_cut_from_the_ids_of_the_whole():
    encode = tokenizer().encode
    pairs = [("Who made the bridge?", " Ann Lee"), ("A boy", " falls.")]
    for (prompt, follows), (first, rest) in zip(
        pairs, encode_pairs(tokenizer(), pairs), strict=True
    ):
        assert first == [tokenizer().bos, *encode(prompt)]
        assert first[1:] + rest == encode(prompt + follows)


def test_a_token_that_spans_the_border_is_left_to_the_prompt():
    # As lm-evaluation-harness does: as many ids are taken off as the prompt has by itself.
    whole = tokenizer().encode("bridge")
    assert len(whole) < len(tokenizer().encode("br")) + len(tokenizer().encode("idge"))
    (prompt, rest), *_ = encode_pairs(tokenizer(), [("br", "idge")])
    assert rest == whole[len(prompt) - 1 :]


def test_spaces_at_the_end_of_a_prompt_go_to_what_follows():
    spaced = encode_pairs(tokenizer(), [("Who made ", "the bridge?")])
    assert spaced == encode_pairs(tokenizer(), [("Who made", " the bridge?")])


def test_rows_hold_every_pair_and_weigh_what_follows():
    pairs = [([1, 5, 6], [7, 8]), ([1], [9]), ([1, 2, 3, 4], [5, 6, 7])]
    batch = pair_rows(pairs, pad=99, positions=64)
    assert batch.tokens.shape == (3, 8)
    for row, (prompt, follows) in enumerate(pairs):
        places = batch.valid[row]
        assert batch.tokens[row][places].tolist() == (prompt + follows)[:-1]
        assert batch.targets[row][places].tolist() == (prompt + follows)[1:]
        assert batch.targets[row][batch.weights[row] > 0].tolist() == follows
        assert (batch.tokens[row][~places] == 99).all() and not batch.weights[row][~places].any()
        assert places[: places.sum()].all()  # padded on the right


def test_a_prompt_that_is_too_long_loses_its_beginning():
    long = (list(range(1, 12)), [50, 51])
    batch = pair_rows([long, ([1], [2])], pad=0, positions=6)
    assert batch.tokens.shape == (2, 6)  # never more than the model takes
    assert batch.tokens[0].tolist() == [7, 8, 9, 10, 11, 50]
    assert batch.targets[0][batch.weights[0] > 0].tolist() == [50, 51]
    assert count_cut([long, ([1], [2])], 6) == 1
    assert count_cut([long], 12) == 0 and count_cut([long], 11) == 1


def test_what_follows_may_fill_the_model():
    batch = pair_rows([([1, 2, 3], [4, 5, 6])], pad=0, positions=3)
    assert batch.tokens.tolist() == [[3, 4, 5]] and batch.weights.all()


def test_what_grew_together_with_its_prompt_is_a_row_that_scores_nothing():
    ((prompt, follows),) = encode_pairs(tokenizer(), [("Who made the br", "idge")])
    assert not follows and prompt[1:] != tokenizer().encode("Who made the bridge")
    pairs = [(prompt, follows), ([1], []), ([1, 2], [3])]
    batch = pair_rows(pairs, pad=0, positions=8)
    assert batch.weights.sum(axis=1).tolist() == [0, 0, 1]
    assert pair_rows([([1], [])], pad=0, positions=8).tokens.shape == (1, 8)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], r"pairs=\[\]: expected at least one"),
        ([([1], [2]), ([], [2])], "pair 1 has 0 tokens of prompt"),
        ([([1], [2] * 9)], "pair 0 has 9 tokens to score, the model takes 8"),
    ],
)
def test_pairs_that_cannot_be_scored_are_refused(pairs, message):
    with pytest.raises(ValueError, match=message):
        pair_rows(pairs, pad=0, positions=8)


def case():
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((40, 4, 3)).astype(np.float32)
    targets = rng.integers(0, 3, (40, 4)).astype(np.int32)
    weights = (rng.random((40, 4)) < 0.5).astype(np.float32)
    return logits, Batch(targets, targets, weights, np.ones((40, 4), bool))


def test_scores_are_sums_over_what_weighs():
    logits, batch = case()
    found = row_scores(jnp.asarray(logits), batch)
    wide = logits.astype(np.float64)
    logs = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    picked = np.take_along_axis(logs, batch.targets[..., None], -1)[..., 0]
    expected = np.where(batch.weights > 0, picked, 0).sum(-1)
    np.testing.assert_allclose(found.log_probability, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.tokens, (batch.weights > 0).sum(-1))
    likeliest = (logits.argmax(-1) == batch.targets) | (batch.weights == 0)
    np.testing.assert_array_equal(found.greedy, likeliest.all(-1))
    assert 0 < found.greedy.sum() < 40


def test_pads_score_nothing_whatever_their_logits():
    logits, batch = case()
    clean = row_scores(jnp.asarray(logits), batch)
    logits[batch.weights == 0] = np.nan
    for one, other in zip(clean, row_scores(jnp.asarray(logits), batch), strict=True):
        np.testing.assert_array_equal(one, other)
