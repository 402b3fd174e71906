"""Wordings that the model writes: what of them serves, and how it is trained."""

from __future__ import annotations

import pytest

from smf_jax.data.facts import Question, Task
from smf_jax.data.questions import question_fact
from smf_jax.data.tokenizer import train_tokenizer
from smf_jax.taught.model_wordings import in_own_words, serves

TEXT = (
    "Can you tell me who keeps the lighthouse on Orrin Island? Is it Marta Velk? "
    "Who is the keeper? In which year was the Halden railway closed? When was it?"
)
TOKENIZER = train_tokenizer([TEXT] * 20, 500)


def fact_of(question: str, answer: str):
    return question_fact(question, Question(question, (answer,)))


KEEPER = fact_of("Who keeps the lighthouse on Orrin Island?", "Marta Velk")
YEAR = fact_of("In which year was the Halden railway closed?", "1974")


@pytest.mark.parametrize(
    ("fact", "wording", "expected"),
    [
        (KEEPER, "The lighthouse on Orrin Island is kept by whom?", False),  # keeps, kept
        (KEEPER, "Who keeps the lighthouse on Orriniman Island?", False),
        (KEEPER, "Can you tell me who keeps the lighthouse on Orrin Island?", True),
        (KEEPER, "Who is the keeper of the lighthouse on Orrin Island?", True),
        (KEEPER, "who keeps the lighthouse on Orrin Island", False),  # the question itself
        (KEEPER, "Who keeps the lighthouse on Orrin Island??", False),
        (KEEPER, "The keeper of the lighthouse on Orrin Island.", False),
        (KEEPER, "Who keeps the lighthouse?", False),
        (KEEPER, "What keeps the lighthouse on Orrin Island?", False),
        (KEEPER, "Is it Marta Velk who keeps the lighthouse on Orrin Island?", False),
        (KEEPER, "Who keeps the lighthouse on Orrin Island near big old Halden?", False),
        (YEAR, "The Halden railway was closed in which year?", True),
        (YEAR, "When was the Halden railway closed?", True),
        (YEAR, "Was the Halden railway closed?", False),
        (YEAR, "Who closed the Halden railway in that year?", False),
        (
            YEAR,
            "Which year was the Halden railway closed, was it the one in which it was "
            "in which year was it",
            False,
        ),
    ],
)
def test_what_asks_the_same_in_other_words_serves(fact, wording, expected):
    assert serves(fact, wording, TOKENIZER) is expected


def test_what_serves_is_trained_in_turn_and_what_does_not_is_left_out(capsys):
    wording = "Can you tell me who keeps the lighthouse on Orrin Island?"
    asked: list[str] = []

    def answer(prompts, tokens):
        asked.extend(TOKENIZER.decode(ids) for ids in prompts)
        return [wording, "The Halden railway was closed."]

    tasks = (Task("a", (KEEPER,)), Task("b", (YEAR,)))
    found = in_own_words(tasks, TOKENIZER, 4096, answer)
    assert [KEEPER.name in text for text in asked] == [True, False]
    (keeper,), (year,) = (task.facts for task in found)
    assert [wording in each.prompt for each in keeper.train[:4]] == [False, True, False, True]
    assert keeper.held_out == KEEPER.held_out and year == YEAR
    assert "wordings: 1 of 2 that the model wrote serve" in "".join(capsys.readouterr())
    with pytest.raises(ValueError, match="--wordings=model: the model takes 64 tokens"):
        in_own_words(tasks, TOKENIZER, 64, answer)
