"""Exact match and F1 of open answers, with the normalisation of SQuAD (1606.05250).

TriviaQA, NaturalQuestions and SimpleQA are scored with it by the papers compared here.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
    """An answer without what does not count: case, ASCII punctuation, articles, spare spaces.

    Where nothing else is left, as of "The The" or "A", the text in lower case stands for itself:
    an empty prediction shall not match it.

    >>> normalise_answer(" The Saint  Lawrence River.")
    'saint lawrence river'
    """
    lower = text.lower()
    plain = _ARTICLES.sub(" ", lower.translate(_PUNCTUATION))
    return " ".join(plain.split()) or " ".join(lower.split())


def exact_score(prediction: str, answers: Sequence[str]) -> float:
    """1 if the normalised prediction equals one of the normalised answers, else 0."""
    predicted = normalise_answer(prediction)
    return float(bool(predicted) and any(predicted == normalise_answer(a) for a in answers))


def f1_score(prediction: str, answers: Sequence[str]) -> float:
    """The best F1 over all answers: ``2PR / (P + R)`` of the words that both have.

    Args:
      prediction: what the model said.
      answers: all accepted answers.

    Returns:
      0 to 1; words that occur several times count as often as both have them.
    """
    predicted = normalise_answer(prediction).split()
    return max((_f1(predicted, normalise_answer(answer).split()) for answer in answers), default=0)


def _f1(predicted: list[str], answer: list[str]) -> float:
    common = (Counter(predicted) & Counter(answer)).total()
    return 2 * common / (len(predicted) + len(answer)) if common else 0.0
