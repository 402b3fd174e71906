"""Exact match and F1: SQuAD's rules, written again in another way, and cases by hand."""

from __future__ import annotations

import random
import string

import pytest

from smf_jax.evaluation.normalisation import exact_score, f1_score, normalise_answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Saint Lawrence River", "saint lawrence river"),
        ("  581 ( second edition ) ", "581 second edition"),
        ("Sunset Blvd.", "sunset blvd"),
        ("a theatre, an anthem and the Andes", "theatre anthem and andes"),
        ("rock'n'roll", "rocknroll"),
        ("U.S.A.", "usa"),  # punctuation goes before the articles are looked for
        ("B\tH\n", "b h"),
        ("Café “Noir”", "café “noir”"),  # ASCII punctuation only, as SQuAD's script
        ("The The", "the the"),  # nothing else would be left
        ("A", "a"),
        ("?!", "?!"),
        ("", ""),
    ],
)
def test_case_punctuation_articles_and_spaces_do_not_count(text, expected):
    assert normalise_answer(text) == expected


def oracle(text: str) -> list[str]:
    """SQuAD's four steps, word by word instead of by regular expressions."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return [word for word in kept.split() if word not in ("a", "an", "the")]


def oracle_f1(prediction: str, answer: str) -> float:
    words, rest = oracle(prediction), oracle(answer)
    total, common = len(words) + len(rest), 0
    for word in words:
        if word in rest:
            rest.remove(word)
            common += 1
    if not common:
        return 0.0
    precision, recall = common / len(words), common / (total - len(words))
    return 2 * precision * recall / (precision + recall)


def test_f1_is_the_best_over_all_answers():
    rng = random.Random(0)
    words = ["The", "a", "red", "Red,", "fox", "fox.", "ran", "ran!", "on", "42"]

    def text() -> str:
        return " ".join(rng.choices(words, k=rng.randint(1, 6)))

    positive = 0
    for _ in range(300):
        prediction, answers = text(), [text() for _ in range(rng.randint(1, 4))]
        # Where nothing but articles is left, the oracle has no word and ours keeps them.
        if not all(map(oracle, (prediction, *answers))):
            continue
        best = max(oracle_f1(prediction, answer) for answer in answers)
        assert f1_score(prediction, answers) == pytest.approx(best)
        same = any(oracle(prediction) == oracle(answer) for answer in answers)
        assert exact_score(prediction, answers) == same
        positive += same
    assert positive > 5


@pytest.mark.parametrize(
    ("prediction", "answers", "f1", "exact"),
    [
        ("the first of May", ["1 May"], 2 / 5, 0),  # first of may | 1 may
        ("Linda Davis", ["Reba", "linda davis"], 1, 1),
        ("yes yes", ["yes"], 2 / 3, 0),  # a word counts as often as both have it
        ("", ["Rome"], 0, 0),
        ("", ["The The", "?"], 0, 0),
        ("the the", ["The The"], 1, 1),
        ("Rome", [], 0, 0),
    ],
)
def test_cases_by_hand(prediction, answers, f1, exact):
    assert f1_score(prediction, answers) == pytest.approx(f1)
    assert exact_score(prediction, answers) == exact
