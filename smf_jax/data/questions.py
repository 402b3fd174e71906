"""Questions with their answers from files of records, and the paraphrases they are put into."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smf_jax.data.facts import Fact, Paraphrase, Question, rotate_paraphrases
from smf_jax.data.files import fail_at, read_records

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
# How many of them a question is trained in, and how many others it is asked in.
TRAINED, HELD_OUT = 8, 2
# The names under which a record may hold its parts; the first one present counts.
QUESTION_FIELDS = ("question", "problem")
ANSWER_FIELDS = ("answers", "answer")  # a list of accepted answers, or one answer
RELATION_FIELD = "relation"  # optional: the group that the fact belongs to


def read_questions(path: str | Path, *, relations: Sequence[str] | None = None) -> tuple[Fact, ...]:
    """Read questions with their answers, of some relations or all, and put them into paraphrases.

    Facts are in the order of the file, one per record, named by file and line.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file or a record is malformed or a relation unknown; with the line.
    """
    path = Path(path)
    found = _read(path, needs_relation=relations is not None)
    if relations is not None:
        existing = {relation for *_, relation in found}
        unknown = sorted(set(relations) - existing)
        if unknown or not relations:
            raise ValueError(
                f"{path}: unknown relations {unknown}; the file has {', '.join(sorted(existing))}"
            )
        found = [entry for entry in found if entry[-1] in relations]
    stem = path.name.partition(".")[0]
    return tuple(
        question_fact(f"{stem}:{line}", question, relation=relation, turn=turn)
        for turn, (line, question, relation) in enumerate(found)
    )


def read_open_questions(path: str | Path) -> tuple[Question, ...]:
    """Read questions as they stand, in no paraphrase; errors are those of `read_questions`."""
    return tuple(question for _, question, _ in _read(Path(path), needs_relation=False))


def question_fact(name: str, question: Question, *, relation: str = "", turn: int = 0) -> Fact:
    """The fact that a question and its first answer state, in generic question formats.

    ``turn``, the fact's place among its neighbours, decides which formats are held out; its
    neighbours are trained in them.
    """
    taught = f" {question.answers[0]}"
    formats = QUESTION_FORMATS[: TRAINED + HELD_OUT]
    paraphrases = tuple(Paraphrase(text.format(question.text), taught) for text in formats)
    train, held_out = rotate_paraphrases(paraphrases, turn, TRAINED, HELD_OUT)
    return Fact(name, relation, train, held_out, question.answers)


def _read(path: Path, needs_relation: bool) -> list[tuple[int, Question, str]]:
    """The line, the question and the relation of every record."""
    found = []
    for line, record in read_records(path):
        text, names = _first(record, QUESTION_FIELDS)
        if not isinstance(text, str) or not text.strip():
            has = f"the record has {list(record)}"
            fail_at(path, line, f"no question: expected text in {names}; {has}")
        question = Question(text.strip(), _answers(path, line, record))
        relation = record.get(RELATION_FIELD)
        if needs_relation and relation is None:
            fail_at(
                path,
                line,
                f"no field {RELATION_FIELD!r}, but some relations are asked for: drop that choice "
                "or take a file whose records name theirs",
            )
        found.append((line, question, "" if relation is None else str(relation)))
    if not found:
        raise ValueError(f"{path}: no questions in the file; expected at least one record")
    return found


def _answers(path: Path, line: int, record: dict[str, Any]) -> tuple[str, ...]:
    """The accepted answers of a record, each once."""
    given, names = _first(record, ANSWER_FIELDS)
    answers = [] if given is None else [given] if isinstance(given, str) else given
    wanted = "expected text or a list of texts"
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        fail_at(path, line, f"{names} is {given!r}: {wanted}")
    kept = tuple(dict.fromkeys(answer.strip() for answer in answers if answer.strip()))
    if not kept:
        remedy = f"{wanted} in {names}; give one or take the line out"
        fail_at(path, line, f"the question has no answer: {remedy}")
    return kept


def _first(record: dict[str, Any], names: Sequence[str]) -> tuple[Any, str]:
    """The value of the first field that is there, and the fields in words."""
    value = next((record[name] for name in names if name in record), None)
    return value, " or ".join(map(repr, names))
