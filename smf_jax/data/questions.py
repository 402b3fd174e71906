"""Questions with their answers from files of records, and the paraphrases they are put into."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from smf_jax.data.answer_order import AnswerOrder, typical_first
from smf_jax.data.conversations import ANSWERING, say_turns, turns_of
from smf_jax.data.facts import Asked, Fact, Paraphrase, Question, rotate_paraphrases
from smf_jax.data.files import fail_at, read_records
from smf_jax.data.records import at, paths_of, texts_in, unlisted
from smf_jax.errors import blame_flag
from smf_jax.paths import PathLike, as_path

# Ways to put a question; its answer follows. Regular, and none a part of another.
QUESTION_FORMATS: tuple[str, ...] = (
    "Question: {}\nAnswer:",
    "{}",
    "Q: {}\nA:",
    "{} The answer is",
    "User: {}\nAssistant:",
    "Quiz: {} It is",
    "Someone asked: {} The reply was",
    "Answer this question: {}\nAnswer:",
    "{}\nCorrect answer:",
    "Here is a question: {} Here is the answer:",
    "Teacher: {} Student:",
    "Trivia. {} Solution:",
)
# A question that looks like a list of texts or of messages.
_QUOTED = re.compile(r"""\s*\[\s*['"{].*\]\s*\Z""", re.DOTALL)
# How many of them a question is trained in, and how many others it is asked in.
TRAINED, HELD_OUT = 8, 2
RELATION_FIELD = "relation"  # optional: the group that the fact belongs to
# Optional: further questions about the fact by their kind, which are asked and never taught.
ASKED_FIELD = "asked"
_KIND = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Fields:
    """Where records hold their parts: names or dotted paths, of which the first with any counts."""

    question: tuple[str, ...] = ("question", "problem", "query", "prompt", "messages")
    answers: tuple[str, ...] = ("answers", "answer", "completion")
    order: AnswerOrder = "given"  # of several accepted answers; the first is taught

    @classmethod
    def of(cls, question: str = "", answers: str = "", order: AnswerOrder = "given") -> Fields:
        """The fields of ``--question_field`` and ``--answers_field``; empty for the usual ones."""
        given = {"question": question, "answers": answers}
        named = {
            name: tuple(map(str.strip, text.split(","))) for name, text in given.items() if text
        }
        return cls(**named, order=order)


USUAL = Fields()


def read_questions(
    path: PathLike,
    *,
    relations: Sequence[str] | None = None,
    fields: Fields = USUAL,
    kinds: bool = False,
) -> tuple[Fact, ...]:
    """Read questions with their answers, of some relations or all, and put them into paraphrases.

    Facts are in the order of the file, one per record, named by file and line. Their questions in
    other ``kinds`` are read only where they are asked for: elsewhere a field of that name may hold
    anything, such as a date.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file or a record is malformed or a relation unknown; with the line.
    """
    path = as_path(path)
    found = _read(path, fields, needs_relation=relations is not None, kinds=kinds)
    if relations is not None:
        existing = {each.relation for each in found}
        unknown = sorted(set(relations) - existing)
        if unknown or not relations:
            raise ValueError(
                f"{path}: unknown relations {unknown}; the file has {', '.join(sorted(existing))}"
            )
        found = [each for each in found if each.relation in relations]
    stem = path.name.partition(".")[0]
    facts = (
        question_fact(f"{stem}:{each.line}", each.question, relation=each.relation, turn=turn)
        for turn, each in enumerate(found)
    )
    return tuple(replace(fact, asked=each.asked) for fact, each in zip(facts, found, strict=True))


def read_open_questions(path: PathLike, fields: Fields = USUAL) -> tuple[Question, ...]:
    """Read questions as they stand, in no paraphrase and no other kind; errors as above."""
    return tuple(each.question for each in _read(as_path(path), fields, needs_relation=False))


def question_in(record: Mapping[str, Any], fields: Fields = USUAL) -> Question:
    """The question of a record and its accepted answers, each once.

    Answers are a text, a number, a list, or a group with ``value``, ``aliases`` or ``text``. Of a
    conversation the last turn of the assistant is the answer, unless the record has others or
    other fields are named for them; what stands before it is the question. A ValueError if one of
    the two is lacking.
    """
    answers = _answers(record, fields.answers)
    lacking = ""
    for path in fields.question:
        with blame_flag(f"{path!r}: "):
            found = _told(_value(record, path, _QUOTED), answers, fields.answers == USUAL.answers)
        if found.text and found.answers:
            is_given = fields.order == "given"
            return found if is_given else replace(found, answers=typical_first(found.answers))
        lacking = lacking or found.text
    has = f"the record has {list(paths_of(record))}: name one by --question_field, --answers_field"
    if lacking:
        names = " or ".join(map(repr, fields.answers))
        raise ValueError(
            f"the question has no answer: expected text or a list of texts in {names}; give one or "
            f"take the record out: {lacking[:80]!r}; {has}"
        )
    raise ValueError(
        f"no question: expected text in {' or '.join(map(repr, fields.question))}; {has}"
    )


def asked_in(record: Mapping[str, Any], fields: Fields = USUAL) -> tuple[Asked, ...]:
    """The questions of a record's ``asked``, in its order; none if it has no such field.

    It is a group from the name of a kind to a record with a question and its answers, which is read
    as any other, or to a list of such. A ValueError names the kind, and what was expected.
    """
    found: list[Asked] = []
    with blame_flag(f"{ASKED_FIELD!r}: "):
        kinds = _value(record, ASKED_FIELD)
        if kinds is None or kinds == "":  # the cell of a table
            return ()
        if not isinstance(kinds, Mapping):
            raise ValueError(
                f"found {str(kinds)[:80]!r}: expected a group of questions by their kind, as "
                '{"reversed": {"question": "…", "answer": "…"}}; or leave the field out'
            )
        for kind, told in kinds.items():
            if not _KIND.fullmatch(str(kind)):
                raise ValueError(
                    f"the kind {kind!r} is no name: expected letters, digits, - and _; rename it"
                )
            with blame_flag(f"{kind!r}: "):
                found += [Asked(str(kind), question) for question in _questions(told, fields)]
    return tuple(found)


def _questions(told: Any, fields: Fields) -> list[Question]:
    """Those of a record or of a list of such, one at least."""
    records = told if isinstance(told, list | tuple) else [told]
    if not records or not all(isinstance(each, Mapping) for each in records):
        raise ValueError(
            f"found {str(told)[:80]!r}: expected a question with its answers, as "
            '{"question": "…", "answer": "…"}, or a list of such; give one or take the kind out'
        )
    return [question_in(each, fields) for each in records]


def bare_question(text: str) -> str:
    """The question that a text puts into one of `QUESTION_FORMATS`, or the text as it stands."""
    for each in QUESTION_FORMATS:
        before, _, after = each.partition("{}")
        inner = text.removeprefix(before).removesuffix(after).strip()
        if (before or after) and each.format(inner) == text:
            return inner
    return text


def asks(record: Mapping[str, Any], fields: Fields = USUAL) -> bool:
    """Whether a record holds a question: one of any name, or of these two where it has a text."""
    doubtful = fields.question == USUAL.question and "text" in record
    paths = ("question", "problem") if doubtful else fields.question
    return any(at(record, path) is not None for path in paths)


def question_fact(
    name: str,
    question: Question,
    *,
    relation: str = "",
    turn: int = 0,
    formats: Sequence[str] = QUESTION_FORMATS[: TRAINED + HELD_OUT],
) -> Fact:
    """The fact that a question and its first answer state, in generic question formats.

    ``turn``, the fact's place among its neighbours, decides which two of the ``formats`` are held
    out; its neighbours are trained in them.
    """
    taught = f" {question.answers[0]}"
    paraphrases = tuple(Paraphrase(text.format(question.text), taught) for text in formats)
    train, held_out = rotate_paraphrases(paraphrases, turn, len(formats) - HELD_OUT, HELD_OUT)
    return Fact(name, relation, train, held_out, question.answers, question)


class _Read(NamedTuple):
    """What a record holds."""

    line: int
    question: Question
    relation: str
    asked: tuple[Asked, ...]


def _read(path: Path, fields: Fields, needs_relation: bool, kinds: bool = False) -> list[_Read]:
    found = []
    for line, record in read_records(path):
        with blame_flag(f"{path}, line {line}: "):
            question = question_in(record, fields)
            asked = asked_in(record, fields) if kinds else ()
        relation = record.get(RELATION_FIELD)
        if needs_relation and relation is None:
            fail_at(
                path,
                line,
                f"no field {RELATION_FIELD!r}, but some relations are asked for: drop that choice "
                "or take a file whose records name theirs",
            )
        found.append(_Read(line, question, "" if relation is None else str(relation), asked))
    if not found:
        raise ValueError(f"{path}: no questions in the file; expected at least one record")
    return found


def _told(value: Any, answers: tuple[str, ...], own: bool) -> Question:
    """What a value asks, with the answers given, or a conversation's ``own`` one if it counts."""
    turns = turns_of(value)
    if not turns:
        texts = list(texts_in(value))
        return Question(texts[0] if len(texts) == 1 else "", answers)
    roles = [role for role, _ in turns]
    if ANSWERING in roles and (not answers or roles[-1] == ANSWERING):
        last = len(roles) - 1 - roles[::-1].index(ANSWERING)
        answers = answers or tuple(filter(None, [turns[last][1]] if own else ()))
        turns = turns[:last]
    return Question(say_turns(turns), answers, turns)


def _answers(record: Mapping[str, Any], paths: Sequence[str]) -> tuple[str, ...]:
    """The accepted answers of a record, each once; none if it has none."""
    for path in paths:
        with blame_flag(f"{path!r}: "):
            value = _value(record, path)
            said = [words for role, words in turns_of(value) if role == ANSWERING]
            found = tuple(dict.fromkeys(texts_in(said[-1:] or value)))
        if found:
            return found
    return ()


def _value(record: Mapping[str, Any], path: str, listed: re.Pattern[str] | None = None) -> Any:
    """What stands at a path; a text that looks like a list, or as ``listed``, is read as one."""
    value = at(record, path)
    value = value.decode("utf-8") if isinstance(value, bytes) else value
    may_be = isinstance(value, str) and (listed is None or listed.match(value))
    return unlisted(value) if may_be else value
