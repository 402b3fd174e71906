"""FACTS: questions with answers, statements one a line, or documents, and how they are worded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from smf_jax.continual.stream_tasks import question_of
from smf_jax.data.facts import Fact, Paraphrase
from smf_jax.data.files import TEXT, file_format, holds_records, read_records
from smf_jax.data.questions import HELD_OUT, question_fact
from smf_jax.data.readers import SCHEMES, Reader, existing
from smf_jax.data.shares import question_key
from smf_jax.data.statements import sentences, statement_fact
from smf_jax.errors import blame_flag
from smf_jax.progress import say
from smf_jax.taught.lessons import blame_argument, key_of, worded

FactsAs = Literal["auto", "questions", "statements", "documents"]
WORDINGS = "wordings"  # of a record: other ways to ask its question
# Wordings that every question is trained in besides those of its turn. The answer follows the
# question itself: where a fact was trained only behind words such as "Answer:", it was not given
# to the bare question, which is one of the wordings that facts are asked in.
PLAIN_FORMATS = ("Please tell me. {}", "One more question. {}")


def read_facts(
    reader: Reader, source: str, facts_as: FactsAs = "auto", formats: Sequence[str] = ()
) -> tuple[Fact, ...]:
    """The facts of a file or a directory, each once and in its order.

    ``auto``: statements of a .txt file, documents of a directory, questions of records. Questions
    are put into ``formats`` where these are given, and asked in no other kinds. A ValueError names
    two facts that ask the same and answer otherwise, as one would undo the other; of documents the
    first of them stays.
    """
    with blame_argument("facts", "FACTS"):
        kind = kind_of(source, facts_as)
        found = _READ[kind](reader, source)
    if formats:
        found = [_in_formats(fact, turn, formats) for turn, fact in enumerate(found)]
    distinct: dict[str, Fact] = {}
    for fact in found:
        before = distinct.setdefault(question_key(question_of(fact).text), fact)
        if key_of(before) != key_of(fact) and kind != "documents":
            raise ValueError(
                f"FACTS={source}: {before.name} and {fact.name} ask the same, "
                f"{question_of(fact).text!r}, and answer {before.answers[0]!r} and "
                f"{fact.answers[0]!r}: leave one of them out"
            )
    if left_out := len(found) - len(distinct):
        say(f"FACTS={source}: {left_out} of {len(found)} ask what another asks and are left out")
    return tuple(distinct.values())


def read_wordings(reader: Reader, source: str) -> tuple[str, ...]:
    """The formats of a file, one a line, with the place of the question in braces."""
    lines = reader.whole_text(source, "wordings").splitlines()
    found = tuple(
        dict.fromkeys(line.strip().replace("\\n", "\n") for line in lines if line.strip())
    )
    if wrong := next((line for line in found if line.replace("{}", "", 1).count("{}")), None):
        raise ValueError(f"--wordings={source}: {wrong!r} has {{}} more than once")
    if wrong := next((line for line in found if "{}" not in line), None):
        raise ValueError(f"--wordings={source}: {wrong!r} has no {{}}, where the question goes")
    if len(found) <= HELD_OUT:
        raise ValueError(
            f"--wordings={source} holds {len(found)} wordings, expected {HELD_OUT + 1} or more: "
            f"facts are trained in all but {HELD_OUT}, and asked in these"
        )
    return found


def kind_of(source: str, facts_as: FactsAs = "auto") -> FactsAs:
    """What FACTS are; ``auto``: by the name of the file. A FileNotFoundError if there is none."""
    if facts_as != "auto":
        return facts_as
    if source.partition(":")[0] in SCHEMES:
        return "questions"
    path = existing(source, "facts")
    if path.is_dir():
        return "documents"
    return "statements" if file_format(path) == TEXT else "questions"


def _questions(reader: Reader, source: str) -> list[Fact]:
    """Questions in the built-in formats; where a record has wordings of its own, in these too."""
    try:
        found = [_plain_too(fact) for fact in reader.questions(source, "facts")]
    except ValueError as error:
        if "no question: " not in str(error):
            raise
        raise ValueError(f"{error}; or --facts_as=documents, where records are texts") from error
    if source.partition(":")[0] in SCHEMES or not holds_records(existing(source, "facts")):
        return found
    pairs = zip(found, read_records(existing(source, "facts")), strict=True)
    with blame_flag(f"--facts={source}, "):
        return [_own(fact, record.get(WORDINGS), line) for fact, (line, record) in pairs]


def _in_formats(fact: Fact, turn: int, formats: Sequence[str]) -> Fact:
    question = question_of(fact)
    found = question_fact(fact.name, question, relation=fact.relation, turn=turn, formats=formats)
    prompts = ([each.prompt for each in part] for part in (found.train, found.held_out))
    train, held_out = (tuple(worded(p, fact.answers[0]) for p in part) for part in prompts)
    return replace(found, train=train, held_out=held_out)


def _plain_too(fact: Fact) -> Fact:
    told, text = f" {fact.answers[0]}", question_of(fact).text
    plain = tuple(Paraphrase(each.format(text), told) for each in PLAIN_FORMATS)
    return replace(fact, train=(*fact.train, *plain))


def _own(fact: Fact, wordings: object, line: int) -> Fact:
    """A fact that a record words; a ValueError if what it holds are no wordings."""
    if not wordings:
        return fact
    if not isinstance(wordings, list) or not all(isinstance(w, str) and w for w in wordings):
        raise ValueError(f"line {line}: {WORDINGS!r} is no list of texts")
    return asked_in_turn(fact, wordings)


def asked_in_turn(fact: Fact, wordings: Sequence[str]) -> Fact:
    """A fact whose trained prompts ask in turn as its question stands and in other wordings."""
    question = question_of(fact).text
    asked = [question, *wordings]
    train = tuple(
        each._replace(prompt=each.prompt.replace(question, asked[number % len(asked)]))
        for number, each in enumerate(fact.train)
    )
    return replace(fact, train=train)


def _statements(reader: Reader, source: str) -> list[Fact]:
    found = []
    for line, text in enumerate(reader.whole_text(source, "facts").splitlines(), 1):
        if text.strip():
            with blame_flag(f"--facts={source}, line {line}: "):
                found.append(statement_fact(f"line {line}", text, len(found)))
    if not found:
        raise ValueError(f"--facts={source}: no statements in the file; expected one a line")
    return found


def _documents(reader: Reader, source: str) -> list[Fact]:
    pairs = enumerate(sentences(reader.texts(source, "facts")))
    found = [statement_fact(f"sentence {n + 1}", text, n, before) for n, (before, text) in pairs]
    if not found:
        raise ValueError(f"--facts={source}: no sentence of 4 to 40 words in these documents")
    return found


_READ = {"questions": _questions, "statements": _statements, "documents": _documents}
