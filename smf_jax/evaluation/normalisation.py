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

    If nothing is left, as of "A", the text in lower case stays, lest an empty prediction match.

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
    """Best F1 over all answers, 0 to 1: ``2PR / (P + R)``; words count as often as in both."""
    predicted = Counter(normalise_answer(prediction).split())
    accepted = [Counter(normalise_answer(answer).split()) for answer in answers]
    pairs = (((predicted & each).total(), (predicted + each).total()) for each in accepted)
    return max((2 * common / words if common else 0.0 for common, words in pairs), default=0)
