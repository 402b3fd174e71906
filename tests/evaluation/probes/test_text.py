"""Loss of worked answers and of a text by a sliding window, one token at a time."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import pytest

from smf_jax.evaluation.probes.text import (
    ProbabilityProbe,
    answer_loss_probe,
    perplexity_probe,
    sliding_windows,
)
from smf_jax.evaluation.scorer import Scorer
from tests.evaluation.tiny import POSITIONS, SENTENCES, log_probabilities, params, scorer, tokenizer


def test_the_loss_of_answers_is_a_mean_over_their_tokens():
    pairs = [("Who made it?", " Ann Lee"), ("A boy rides", " down the hill and falls.")]
    found = answer_loss_probe(tokenizer(), pairs, POSITIONS)
    nats = tokens = 0
    for prompt, answer in pairs:
        ids = [tokenizer().bos, *tokenizer().encode(prompt + answer)]
        scored = len(ids) - 1 - len(tokenizer().encode(prompt))
        nats -= log_probabilities(ids)[-scored:].sum()
        tokens += scored
    measured = found.measure(scorer(), params())
    assert list(measured) == ["loss"]
    assert measured["loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert found.about == {"items": 2, "tokens": tokens, "cut": 0}


def test_the_probability_of_answers_is_the_mean_of_their_products():
    pairs = [("Who made it?", " Ann Lee"), ("A boy rides", " down the hill and falls.")]
    found, products = answer_loss_probe(tokenizer(), pairs, POSITIONS), []
    for prompt, answer in pairs:
        ids = [tokenizer().bos, *tokenizer().encode(prompt + answer)]
        count = len(ids) - 1 - len(tokenizer().encode(prompt))
        products.append(np.exp(log_probabilities(ids)[-count:].sum()))
    probe = ProbabilityProbe(**vars(found))
    measured = probe.measure(scorer(), params())
    assert measured == {"probability": pytest.approx(np.mean(products), rel=1e-4)}
    assert probe.about == found.about


@pytest.mark.parametrize(("window", "stride"), [(16, 8), (16, 5), (64, 32), (9, 8)])
def test_the_perplexity_of_a_text_is_that_of_its_windows(window, stride):
    text = " ".join(SENTENCES)
    ids = [tokenizer().bos, *tokenizer().encode(text)]
    nats, scored = 0.0, []
    end = 0
    for start in range(0, len(ids), stride):  # as the recipe of transformers goes over a text
        part = ids[start : start + window]
        fresh = start + len(part) - max(end, 1)
        nats -= log_probabilities(part)[-fresh:].sum()
        scored += range(max(end, 1), start + len(part))
        end = start + len(part)
        if end == len(ids):
            break
    assert scored == list(range(1, len(ids)))
    probe = perplexity_probe(tokenizer(), text, window, stride)
    found = probe.measure(scorer(), params())
    assert found["loss"] == pytest.approx(nats / len(scored), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nats / len(scored)), rel=1e-4)
    assert next(iter(found)) == "perplexity"
    assert probe.about["tokens"] == len(scored)


@pytest.mark.parametrize("length", [2, 7, 8, 9, 11, 12, 13, 40])
def test_each_token_but_the_first_is_scored_once(length):
    ids = list(range(100, 100 + length))
    batch = sliding_windows(ids, 0, window=8, stride=4)
    assert batch.targets[batch.weights > 0].tolist() == ids[1:]
    for row in range(1, len(batch.tokens)):
        first = np.flatnonzero(batch.weights[row])[0]
        assert first >= 8 - 4 - 1  # ids before the scored one, itself included: the context
    assert batch.valid.any(axis=1).all()
    for tokens, targets, weights in zip(batch.tokens, batch.targets, batch.weights, strict=True):
        places = np.flatnonzero(weights)
        assert (targets[places] == tokens[places] + 1).all()


def test_a_limit_keeps_the_first_windows():
    ids = list(range(50))
    whole, few = (sliding_windows(ids, 0, 8, 4, limit) for limit in (None, 3))
    for field, same in zip(few, whole, strict=True):
        np.testing.assert_array_equal(field, same[:3])
    assert len(sliding_windows(ids, 0, 8, 4, 100).tokens) == len(whole.tokens)


@pytest.mark.parametrize(
    ("window", "stride", "ids", "message"),
    [
        (8, 8, [1, 2], "window=8, stride=8: expected a stride of at least 1 and below"),
        (8, 0, [1, 2], "window=8, stride=0"),
        (8, 4, [1], "the text has 1 tokens; a perplexity needs at least 2"),
    ],
)
def test_windows_that_score_nothing_are_refused(window, stride, ids, message):
    with pytest.raises(ValueError, match=message):
        sliding_windows(ids, 0, window, stride)


def test_a_hopeless_model_has_a_finite_perplexity():
    class Hopeless:
        def score(self, given, batch):
            scores = scorer().score(given, batch)
            return scores._replace(log_probability=scores.log_probability - 1e6)

    probe = perplexity_probe(tokenizer(), SENTENCES[0], 16, 8)
    hopeless = cast(Scorer, Hopeless())
    assert math.isfinite(probe.measure(hopeless, params())["perplexity"])
