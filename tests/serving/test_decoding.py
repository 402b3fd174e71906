"""A batch that is decoded in pieces gives what `generate` does, and a score what logits say."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.models.decoder import Decoder, plain_logits
from smf_jax.models.generate import generate, left_pad, trim
from smf_jax.params import flatten
from smf_jax.serving import decoding
from tests.models.tiny import random_params, random_tokens, with_memory


@pytest.fixture(scope="module")
def model() -> tuple[Decoder, dict[str, Any]]:
    config = with_memory("add")
    return Decoder(config), flatten(random_params(config))


PROMPTS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5, 8, 9, 7]]
STEPS, STOP = 11, (7,)


def rows(limits, heat=0.0, seeds=(0, 1, 2)):
    keys = jax.vmap(jax.random.key)(np.array(seeds, np.uint32))
    return decoding.Rows(jnp.array(limits), jnp.full(len(limits), heat, jnp.float32), keys)


def decode(given, how, others=0, gone_after=None, chunk=4) -> tuple[Any, decoding.State]:
    model, params = given
    tokens, valid = left_pad(PROMPTS, 0, 16)
    ends = np.isin(np.arange(model.config.vocabulary), STOP)
    state, told = decoding.start(model, params, tokens, valid, ends, how, 32, others)
    found, gone = [told], np.zeros(len(PROMPTS), bool)
    for turn in range(3):
        if gone_after == turn:
            gone[0] = True
        state, told = decoding.go_on(model, params, state, gone, ends, how, chunk, others)
        found.append(told)
    joined: list[Any] = [np.concatenate(field, 1) for field in zip(*found, strict=True)]
    told: Any = decoding.Told(*joined)  # in NumPy
    return told, state


def test_greedy_pieces_are_what_generate_gives(model):
    tokens, valid = left_pad(PROMPTS, 0, 16)
    whole = np.asarray(generate(model[0], model[1], tokens, valid, STEPS, STOP))
    told, state = decode(model, rows([STEPS] * 3))
    for mine, theirs in zip(told.tokens, whole, strict=True):
        expected = trim(theirs, STOP)
        assert mine[: len(expected)].tolist() == expected
    assert bool(state.ended.all())


def test_log_probabilities_are_those_of_the_logits(model):
    told, _ = decode(model, rows([STEPS] * 3), others=3)
    texts = [ids + told.tokens[row, :4].tolist() for row, ids in enumerate(PROMPTS)]
    tokens, valid = left_pad(texts, 0, 12)
    logits = np.asarray(jax.jit(plain_logits(model[0]))(model[1], tokens, valid), np.float64)[
        :, -5:-1
    ]
    of_all = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for row, logs in enumerate(of_all):
        expected = np.take_along_axis(logs, told.tokens[row, :4, None], 1)[:, 0]
        np.testing.assert_allclose(told.log_probability[row, :4], expected, atol=1e-5)
        best = np.argsort(-logs, axis=1)[:, :3]
        assert told.others[row, :4].tolist() == best.tolist()
        assert (told.others[row, :4, 0] == told.tokens[row, :4]).all()


def test_draws_of_a_row_do_not_depend_on_its_neighbours(model):
    first, _ = decode(model, rows([STEPS] * 3, 1.0, (5, 6, 7)))
    second, _ = decode(model, rows([STEPS] * 3, 1.0, (8, 6, 9)))
    ends = trim(first.tokens[1], STOP)
    assert second.tokens[1, : len(ends)].tolist() == ends
    assert first.tokens[0].tolist() != second.tokens[0].tolist()


def test_rows_end_at_their_limit_and_when_nobody_waits(model):
    _, state = decode(model, rows([0, 1, 2]))
    assert state.ended.all() and state.step == 2
    told, _ = decode(model, rows([STEPS] * 3), gone_after=0)
    whole, _ = decode(model, rows([STEPS] * 3))
    assert told.tokens[1:].tolist() == whole.tokens[1:].tolist()


@pytest.mark.parametrize(("others", "length"), [(0, 7), (1, 64), (4, 64)])
def test_a_text_is_scored_as_its_logits_say(model, others, length):
    decoder, params = model
    tokens = random_tokens(decoder.config, (2, length + 1))
    valid = np.ones((2, length), bool)
    told = decoding.score(decoder, params, tokens[:, :-1], tokens[:, 1:], valid, others)
    logits = np.asarray(jax.jit(plain_logits(decoder))(params, tokens[:, :-1], valid), np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = np.take_along_axis(logs, tokens[:, 1:, None], 2)[:, :, 0]
    np.testing.assert_allclose(told.log_probability, expected, atol=1e-5)
    assert told.others.shape == (2, length, others)
    if others:
        assert (told.others[:, :, 0] == logs.argmax(2)).all()
        is_best = tokens[:, 1:] == told.others[:, :, 0]
        same = told.other_log_probability[:, :, 0] == told.log_probability
        assert (np.asarray(same) == np.asarray(is_best)).all()
