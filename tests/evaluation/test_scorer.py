"""Scores and answers of a random decoder against one token at a time, without pads or chunks."""

from __future__ import annotations

import numpy as np
import pytest

from smf_jax.evaluation import scorer as scorer_module
from smf_jax.evaluation.continuations import pair_rows
from smf_jax.evaluation.scorer import Scorer, shared_prefix
from smf_jax.losses import count_scored
from tests.evaluation.tiny import (
    POSITIONS,
    log_probabilities,
    model,
    params,
    scorer,
    token_logits,
    tokenizer,
)


def random_pairs(count: int) -> list[tuple[list[int], list[int]]]:
    rng = np.random.default_rng(count)

    def ids(most: int) -> list[int]:
        return rng.integers(3, tokenizer().size, rng.integers(1, most)).tolist()

    return [(ids(9), ids(6)) for _ in range(count)]


def test_rows_score_what_one_forward_pass_each_gives():
    pairs = random_pairs(13)  # three chunks of five, the last with two pads
    found = scorer().score(params(), pair_rows(pairs, 0, POSITIONS))
    assert found.log_probability.dtype == np.float64
    for row, (prompt, follows) in enumerate(pairs):
        logs = log_probabilities(prompt + follows)[-len(follows) :]
        assert found.log_probability[row] == pytest.approx(logs.sum(), rel=1e-5)
        assert found.tokens[row] == len(follows)


def test_neither_chunks_nor_the_room_for_logits_change_a_score(monkeypatch):
    batch = pair_rows(random_pairs(7), 0, POSITIONS)
    whole = Scorer(model(), 7).score(params(), batch)
    # Room for the logits of two rows, at the places that are scored.
    scored = count_scored(batch.weights)
    monkeypatch.setattr(scorer_module, "_LOGITS", 2 * scored * tokenizer().size)
    parts = Scorer(model(), 7)
    shapes = []
    monkeypatch.setattr(
        parts,
        "_score",
        lambda given, chunk, places, score=parts._score: (
            shapes.append(chunk.tokens.shape) or score(given, chunk, places)
        ),
    )
    found = parts.score(params(), batch)
    assert shapes == [(2, batch.tokens.shape[1])] * 4
    np.testing.assert_allclose(found.log_probability, whole.log_probability, rtol=1e-6)
    np.testing.assert_array_equal(found.greedy, whole.greedy)


def greedy(prompt: list[int], steps: int) -> list[int]:
    ids = list(prompt)
    for _ in range(steps):
        ids.append(int(token_logits(ids)[-1].argmax()))
    return ids[len(prompt) :]


def test_a_row_is_greedy_if_decoding_gives_it():
    prompts = [prompt for prompt, _ in random_pairs(4)]
    pairs = [(prompt, greedy(prompt, 4)) for prompt in prompts]
    pairs += [(prompt, [*ids[:-1], (ids[-1] + 1) % 250]) for prompt, ids in pairs]
    found = scorer().score(params(), pair_rows(pairs, 0, POSITIONS))
    assert found.greedy.tolist() == [True] * 4 + [False] * 4


def test_answers_are_greedy_and_end_with_what_stops_them():
    prompts = [prompt for prompt, _ in random_pairs(7)]
    whole = [greedy(prompt, 6) for prompt in prompts]
    assert scorer().answer(params(), prompts, 6) == whole
    stop = whole[0][2]
    found = scorer().answer(params(), prompts, 6, (stop,))
    for ids, full in zip(found, whole, strict=True):
        end = full.index(stop) + 1 if stop in full else 6
        assert ids == full[:end]
    assert len(found[0]) <= 3


def test_examples_before_every_prompt_change_no_answer():
    shown = random_pairs(1)[0][0] + list(range(5, 40))
    prompts = [shown + prompt[:4] for prompt, _ in random_pairs(6)]
    shared = shared_prefix(prompts)
    assert len(shared) == 32 and shown[:32] == shared
    assert scorer().answer(params(), prompts, 4) == [greedy(prompt, 4) for prompt in prompts]


def test_a_prefix_leaves_a_token_to_every_prompt_and_is_none_of_one():
    ids = list(range(3, 36))
    assert shared_prefix([ids, ids[:32]]) == ids[:16]
    assert shared_prefix([ids, ids]) == ids[:32]
    assert shared_prefix([ids]) == shared_prefix([]) == shared_prefix([ids, [1]]) == []


def test_a_prompt_may_fill_the_model_but_for_its_answer():
    prompts = [list(range(3, 3 + POSITIONS - 5)), [4]]
    assert [len(ids) for ids in scorer().answer(params(), prompts, 5)] == [5, 5]
    with pytest.raises(ValueError, match="a prompt of 59 tokens and steps=6 do not fit"):
        scorer().answer(params(), prompts, 6)


def test_rows_below_one_are_refused():
    with pytest.raises(ValueError, match="rows=0: expected at least 1"):
        Scorer(model(), 0)
