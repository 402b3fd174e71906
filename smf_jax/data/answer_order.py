"""Which of a question's accepted answers stands first: it is the one that is taught and shown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

AnswerOrder = Literal["given", "typical"]
_GRAM = 3
# Lists of which the order is remembered: a command reads a file of questions several times.
_REMEMBERED = 2**15


def typical_first(answers: Sequence[str]) -> tuple[str, ...]:
    """The answers with the most typical one first: that which is most like all of the others.

    Lists of aliases are often sorted by nothing, and begin with a misspelling or a page's title.
    Likeness is the sum of the cosines between counts of three letters, whatever their case; of
    answers that differ in case alone, the one with most words that begin with a capital stands
    first, and what is written with brackets or signs for encyclopedias comes last. Equal ones stay
    in order.
    """
    return _typical_first(tuple(answers))


@lru_cache(_REMEMBERED)
def _typical_first(answers: tuple[str, ...]) -> tuple[str, ...]:
    if len(answers) < 2:
        return answers
    grams = [_grams(answer.casefold()) for answer in answers]
    lengths = [math.sqrt(sum(count * count for count in each.values())) for each in grams]
    total: Counter[str] = Counter()
    for each, length in zip(grams, lengths, strict=True):
        for gram, count in each.items():
            total[gram] += count / length  # pyright: ignore[reportArgumentType]
    likeness = [
        sum(count * total[gram] for gram, count in each.items()) / length
        for each, length in zip(grams, lengths, strict=True)
    ]

    def place(index: int) -> tuple[bool, float, float]:
        answer = answers[index]
        is_title = any(sign in answer for sign in "()%[]")
        return is_title, -round(likeness[index], 9), -_capitals(answer)

    return tuple(answers[index] for index in sorted(range(len(answers)), key=place))


def _grams(text: str) -> Counter[str]:
    framed = f" {text} "
    return Counter(framed[start : start + _GRAM] for start in range(len(framed) - _GRAM + 1))


def _capitals(answer: str) -> float:
    """Share of the words that begin with a capital; none of a text all in capitals."""
    words = answer.split()
    if answer.isupper() and len(answer) > 3:
        return 0.0
    return sum(word[0].isupper() for word in words) / max(1, len(words))
