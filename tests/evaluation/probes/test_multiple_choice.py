"""Multiple choice: every way of dividing a likelihood by a length, against the definition."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import tokenizers
from tokenizers import models

from smf_jax.data.multiple_choice import Choice
from smf_jax.data.tokenizer import Tokenizer
from smf_jax.evaluation.continuations import RowScores
from smf_jax.evaluation.probes.multiple_choice import choice_probe
from smf_jax.evaluation.scorer import Scorer
from tests.evaluation.tiny import ITEMS, POSITIONS, log_probabilities, params, scorer, tokenizer


def by_definition() -> dict[str, float]:
    encode, bos = tokenizer().encode, tokenizer().bos
    right: dict[str, int] = dict.fromkeys(("acc", "acc_norm", "acc_bytes", "acc_tokens"), 0)
    for item in ITEMS:
        scores: dict[str, list[Any]] = {name: [] for name in right}
        for ending in item.endings:
            whole = [bos, *encode(f"{item.prompt} {ending}")]
            tokens = len(whole) - len(encode(item.prompt)) - 1
            total = log_probabilities(whole)[-tokens:].sum()
            scores["acc"].append(total)
            scores["acc_norm"].append(total / len(ending))
            scores["acc_bytes"].append(total / len(ending.encode("utf-8")))
            scores["acc_tokens"].append(total / tokens)
        for name, values in scores.items():
            right[name] += int(np.argmax(values)) == item.right
    return {name: count / len(ITEMS) for name, count in right.items()}


def test_accuracies_are_those_of_the_definition():
    probe = choice_probe(tokenizer(), ITEMS, POSITIONS)
    found = probe.measure(scorer(), params())
    assert next(iter(found)) == "acc_norm"  # the one to look at
    assert found == pytest.approx(by_definition())
    assert probe.about == {"items": 3, "cut": 0}


class Told:
    """A scorer that says what it is told."""

    def __init__(self, log_probability, tokens):
        self.scores = RowScores(np.array(log_probability), np.array(tokens), np.zeros(4, bool))

    def score(self, given, batch):
        return self.scores


@pytest.mark.parametrize(
    ("name", "winner"), [("acc", 0), ("acc_norm", 1), ("acc_bytes", 3), ("acc_tokens", 2)]
)
def test_each_length_can_decide(name, winner):
    # Characters 2, 6, 4, 5 and bytes 2, 6, 4, 10.
    endings = ("ab", "abcdef", "abcd", "ééééé")
    told = cast(Scorer, Told([-2.0, -2.4, -3.2, -3.0], [1, 2, 4, 2]))
    for right in range(4):
        probe = choice_probe(tokenizer(), [Choice("He", endings, right)], POSITIONS)
        assert probe.measure(told, {})[name] == (right == winner)


def test_of_equals_the_first_is_chosen():
    told = cast(Scorer, Told([-1.0] * 4, [1] * 4))
    probe = choice_probe(tokenizer(), [Choice("He", ("aa", "bb", "cc", "dd"), 0)], POSITIONS)
    assert set(probe.measure(told, {}).values()) == {1.0}


def test_a_probe_without_items_is_refused():
    with pytest.raises(ValueError, match="a probe without items measures nothing"):
        choice_probe(tokenizer(), (), POSITIONS)


def test_long_prompts_are_counted():
    long = Choice("A boy rides down the hill. " * 20 + "He", ("a", "b", "c", "d"), 0)
    probe = choice_probe(tokenizer(), [long, ITEMS[0]], POSITIONS)
    assert probe.about == {"items": 2, "cut": 4}
    assert probe.batch.tokens.shape == (8, POSITIONS)


def test_an_ending_that_grows_together_with_its_prompt_scores_nothing():
    vocabulary = {piece: i for i, piece in enumerate(("</s>", *"a bc", " b", "a b"))}
    joins = models.BPE(vocabulary, [(" ", "b"), ("a", " b")])
    tokens = Tokenizer(tokenizers.Tokenizer(joins), bos=None, eos=0, pad=0)
    items = [Choice("a", ("b", "c"), right) for right in (0, 1)]
    probe = choice_probe(tokens, items, POSITIONS)
    assert probe.about == {"items": 2, "cut": 0, "joined": 2}
    told = cast(Scorer, Told([0.0, -1.0] * 2, [0, 3] * 2))
    assert set(probe.measure(told, {}).values()) == {0.5}
