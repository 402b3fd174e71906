"""Plain statements and documents as facts: the end of a sentence is asked, after its beginning."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from smf_jax.data.facts import Fact, Question
from smf_jax.data.questions import question_fact

# Ways to put a statement; its beginning stands in the braces and its end follows.
STATEMENT_FORMATS: tuple[str, ...] = (
    "{}",
    "Fact: {}",
    "Complete the sentence: {}",
    "It is known that: {}",
    "Note. {}",
    "User: Tell me a fact.\nAssistant: {}",
    "Someone said: {}",
    "Remember this: {}",
    "Here is what the report says: {}",
    "True statement: {}",
)
MARK = "|"  # divides a statement where its writer wants it to be
# Words behind which a statement's end may begin; the last of them counts.
_BEFORE_END = frozenset(
    [
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "has",
        "have",
        "had",
        "of",
        "in",
        "on",
        "at",
        "by",
        "to",
        "from",
        "for",
        "with",
        "as",
        "after",
        "into",
        "than",
        "called",
        "named",
        "means",
        "equals",
        "costs",
        "says",
        "cost",
        "became",
        "becomes",
    ]
)
_LONGEST_END = 6  # words; of a longer one the last three are the end
_SENTENCE = re.compile(r"(?<=[.!?])[\"')\]”]*\s+(?=[\"'(\[“]?[A-Z0-9])")
_FEWEST, _MOST = 4, 40  # words of a document's sentence that can be taught


def split_statement(text: str) -> tuple[str, str]:
    """The beginning of a statement and its end, which is what is asked.

    A bar divides it, or else the last word such as *is* or *of*: ``The ferry is | orange``. Without
    one the last word is the end. A ValueError tells of a question, or of what is too short.
    """
    if text.rstrip().endswith("?"):
        raise ValueError(
            f"{text[:80]!r} is a question; expected a statement, or questions with their answers "
            "in .jsonl or .csv"
        )
    if MARK in text:
        beginning, _, end = (part.strip() for part in text.partition(MARK))
        if not beginning or not end or MARK in end:
            raise ValueError(
                f"{text[:80]!r}: expected one bar between what is told first and what is asked"
            )
        return beginning, end.rstrip(".")
    words = text.strip().rstrip(".!").split()
    if len(words) < 2:
        raise ValueError(f"{text[:80]!r}: expected a statement of two words or more")
    places = [at for at, word in enumerate(words[:-1]) if word.lower() in _BEFORE_END]
    start = places[-1] + 1 if places else len(words) - 1
    if len(words) - start > _LONGEST_END:
        start = len(words) - 3
    return " ".join(words[:start]), " ".join(words[start:])


def statement_fact(name: str, text: str, turn: int = 0, before: str = "") -> Fact:
    """The fact that a statement tells, in generic formats; ``before`` stands before it.

    ``turn``, the fact's place among its neighbours, decides which formats are held out.
    """
    beginning, end = split_statement(text)
    question = Question(f"{before} {beginning}".strip(), (end,))
    return question_fact(name, question, turn=turn, formats=STATEMENT_FORMATS)


def sentences(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The sentences of documents, each with the one before it, which says what it speaks of.

    The first of a document has none before it. A question is left out, and so is what is no
    sentence of 4 to 40 words.
    """
    for text in texts:
        before = ""
        for sentence in _SENTENCE.split(" ".join(text.split())):
            if _FEWEST <= len(sentence.split()) <= _MOST and not sentence.endswith("?"):
                yield before, sentence.replace(MARK, "/")
                before = sentence
