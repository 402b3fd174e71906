"""Exact match and F1 of open answers: SQuAD's (1606.05250), and MLQA's for unspaced scripts.

TriviaQA, NaturalQuestions and SimpleQA are scored with SQuAD's by the papers compared here. MLQA
(1910.07475) takes every character of a script without spaces for a word.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Scripts that put no spaces between words, after NFKC.
_UNSPACED = re.compile(
    "["
    "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\u3040-\u30ff\u31f0-\u31ff"  # Hiragana, Katakana
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Myanmar
    "\u1780-\u17ff\u19e0-\u19ff"  # Khmer
    "]"
)
# What sets text beside them, such as the ideographic full stop.
_MARKS = re.compile("[\u3001-\u303f]")


def is_unspaced(text: str) -> bool:
    """Whether a text has letters of a script without spaces, which are compared one by one."""
    return bool(_UNSPACED.search(unicodedata.normalize("NFKC", text)))


def normalise_answer(text: str) -> str:
    """An answer without what does not count: case, ASCII punctuation, articles, spare spaces.

    Unicode's forms of one character (NFKC) are the same. Characters of scripts without spaces are
    words of their own, and beside them no punctuation counts. If nothing is left, as of "A", the
    text in lower case stays, lest an empty prediction match.

    >>> normalise_answer(" The Saint  Lawrence River.")
    'saint lawrence river'
    >>> normalise_answer("\u6771\u4eac\u90fd\u3002")  # Tokyo, with its full stop
    '\u6771 \u4eac \u90fd'
    """
    lower = unicodedata.normalize("NFKC", text).lower()
    plain = lower.translate(_PUNCTUATION)
    if _UNSPACED.search(lower) or _MARKS.search(lower):
        kept = (c for c in plain if unicodedata.category(c)[0] != "P" and c != "\u200b")
        plain = _UNSPACED.sub(r" \g<0> ", "".join(kept))
    plain = _ARTICLES.sub(" ", plain)
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
