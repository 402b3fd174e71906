"""Shares of questions by a hash of their words: what is tuned on, reported, or neither of both.

The hash looks at nothing but the question, so that a question has one share in every file, at
every size of a stream and for every seed.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Literal

# Which questions of a file are taught or asked: of one share, or all but those set aside.
Split = Literal["all", "dev", "test"]
Share = Literal["aside", "dev", "test"]
# Never taught and never asked: examples before a question, and questions of the background.
ASIDE = 0.1
DEV = 0.3  # rates and sizes are picked on these; the rest is for what is reported
_WORDS = re.compile(r"\w+")


def question_key(text: str) -> str:
    """What a question is known by: its words, without case, punctuation and forms of Unicode.

    >>> question_key("Who  wrote 'Emma'?") == question_key("who wrote Emma")
    True
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORDS.findall(plain)) or " ".join(plain.split())


def share_of(text: str) -> Share:
    """The share of a question: the first 64 bits of SHA-256 of its key, as a number below 1."""
    digest = hashlib.sha256(question_key(text).encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return "aside" if place < ASIDE else "dev" if place < ASIDE + DEV else "test"


def is_in(split: Split, text: str) -> bool:
    """Whether a question may be taught or asked under a split; what is set aside never is."""
    share = share_of(text)
    return share != "aside" if split == "all" else share == split
