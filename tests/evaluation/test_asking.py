"""Asking: nothing twice, in batches, no further than needed, and nothing lost."""

from __future__ import annotations

from typing import Any, cast

import pytest

from smf_jax.data.facts import Question
from smf_jax.evaluation.asking import Asking
from smf_jax.evaluation.probes.open import END, open_probe
from smf_jax.evaluation.scorer import Scorer
from tests.evaluation.tiny import POSITIONS, params, scorer, tokenizer


class Echo:
    """A scorer that answers each prompt with its last token, and counts what it is asked."""

    rows = 1

    def __init__(self):
        self.asked: list[int] = []

    def answer(self, given, prompts, steps, stop, multiple):
        self.asked.append(len(prompts))
        return [[ids[-1]] for ids in prompts]


def words(*texts: str) -> list[tuple[list[int], tuple[str, ...]]]:
    """Prompts whose echo is right where it is the letter r."""
    return [(tokenizer().encode(text), ("R!",)) for text in texts]


def asking(echo: Echo, said: dict[str, str] | None = None, keep: Any = lambda said: None) -> Asking:
    return Asking(lambda: (cast(Scorer, echo), {}), tokenizer(), said, keep)


ASKED = words("x r", "x b", "y r", "y b", "z r", "z b", "v r", "v b")


def test_questions_are_asked_until_enough_are_found():
    echo = Echo()
    asks = asking(echo)
    assert asks.first(ASKED, True, 2, 4, [END], rows=2) == [0, 2]
    assert echo.asked == [2, 2]
    # What was answered is not asked again, whoever wants it and whatever they look for.
    assert asks.first(ASKED, False, 3, 4, [END], rows=3) == [1, 3, 5]
    assert echo.asked == [2, 2, 2]
    assert asks.first(ASKED, True, None, 4, [END], rows=99) == [0, 2, 4, 6]
    assert sum(echo.asked) == len(ASKED) == len(asks.used)
    assert asks.first(ASKED, True, 9, 5, [END], rows=99) == [
        0,
        2,
        4,
        6,
    ]  # longer answers are others
    assert sum(echo.asked) == 2 * len(ASKED)


def test_answers_are_kept_batch_by_batch_and_taken_up():
    echo, kept = Echo(), []
    asking(echo, keep=kept.append).first(ASKED, True, 2, 4, [END], rows=2)
    assert [len(said) for said in kept] == [2, 4]
    later = asking(echo, dict(kept[0]))
    assert later.first(ASKED, True, None, 4, [END], rows=99) == [0, 2, 4, 6]
    assert echo.asked == [2, 2, 6]  # in the second session all but the first two
    assert len(asking(echo, dict(kept[-1])).answers([ASKED[0][0]], 4, [END])) == 1
    assert echo.asked == [2, 2, 6]


def test_nothing_is_made_before_there_is_something_to_ask():
    def never():
        raise AssertionError

    assert Asking(never, tokenizer()).first([], True, 3, 4, [END], rows=2) == []
    with pytest.raises(AssertionError):
        Asking(never, tokenizer()).answers([[5]], 4, [END])


def test_answers_are_those_of_the_probe_of_open_questions():
    asked = [Question("Who made it?", ("Ann",)), Question("Who falls?", ("a boy",))]
    probe = open_probe(tokenizer(), asked, POSITIONS, steps=4)
    asks = Asking(lambda: (scorer(), params()), tokenizer())
    assert asks.answers(probe.prompts, 4, [END]) == probe.predict(scorer(), params())


def test_batches_are_filled_up_so_that_few_shapes_are_compiled():
    echo = Echo()
    echo.rows = 3
    assert asking(echo).first(ASKED, True, None, 4, [END], rows=4) == [0, 2, 4, 6]
    assert echo.asked == [6, 6]
