"""Exact match and F1: SQuAD's rules, written again in another way, and cases by hand."""

from __future__ import annotations

import random
import string

import pytest

from smf_jax.evaluation.normalisation import (
    exact_score,
    f1_score,
    is_unspaced,
    normalise_answer,
)


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


def test_scripts_without_spaces_are_told():
    assert all(map(is_unspaced, ("Tokyo 東京", "ひ", "ｶ", "ไทย", "ລາວ", "ខ", "မ", "\U00020000")))
    assert not any(map(is_unspaced, ("Beyonce\u0301", "서울", "Москва", "“…”", "हिन्दी", "")))


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
        # Unicode's forms of one text are the same.
        ("Beyonce\u0301", ["Beyonc\u00e9"], 1, 1),
        ("ＡＢＣ １２", ["abc 12"], 1, 1),
        ("\u1109\u1165\u110b\u116e\u11af", ["서울"], 1, 1),  # Korean has spaces: a word
        ("서울 시", ["서울"], 2 / 3, 0),
        # Characters of scripts without spaces are words, as in MLQA.
        ("东京", ["东京"], 1, 1),
        ("东京都", ["东京"], 0.8, 0),  # 2 of 3 and 2 of 2: 2 · 2 / 5
        ("东 京。", ["「东京」"], 1, 1),
        ("1911年", ["1911 年"], 1, 1),
        ("1911。", ["1911"], 1, 1),
        ("the 东京 Tower", ["东京 tower"], 1, 1),
        ("アインシュタイン", ["アルベルト・アインシュタイン"], 16 / 21, 0),  # 8 of 8, 8 of 13
        ("ｶﾞｽ", ["ガス"], 1, 1),
        ("กรุงเทพ", ["กรุงเทพมหานคร"], 14 / 20, 0),  # 7 of 7, 7 of 13
        ("ກຂ", ["ກຄ"], 1 / 2, 0),
        ("កខ", ["ក"], 2 / 3, 0),
        ("ကခ", ["က ခ"], 1, 1),
        ("京", ["东"], 0, 0),
    ],
)
def test_cases_by_hand(prediction, answers, f1, exact):
    assert f1_score(prediction, answers) == pytest.approx(f1)
    assert exact_score(prediction, answers) == exact
