"""Questions and texts from files: JSONL, CSV and plain text, also as .gz, .xz or .bz2."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smf_jax.data.facts import (
    Fact,
    Paraphrase,
    Question,
    Task,
    check_paraphrase_counts,
    rotate_paraphrases,
)
from smf_jax.data.files import (
    EXPECTED_FORMATS,
    fail_at,
    file_format,
    has_format,
    read_paragraphs,
    read_records,
)

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


@dataclass(frozen=True)
class QuestionFields:
    """The names under which a record may hold its parts; the first one present counts."""

    question: tuple[str, ...] = ("question", "problem")
    # A list of accepted answers, or one answer.
    answers: tuple[str, ...] = ("answers", "answer")
    # Optional: the group that the fact belongs to.
    relation: tuple[str, ...] = ("relation",)


def read_questions(
    path: str | Path,
    *,
    fields: QuestionFields = QuestionFields(),
    relations: Sequence[str] | None = None,
    train_paraphrases: int = 8,
    held_out_paraphrases: int = 2,
) -> tuple[Fact, ...]:
    """Read questions with their answers and put them into paraphrases.

    Args:
        path: A .jsonl or .csv file, also with .gz, .xz or .bz2 behind it.
        fields: What the fields of a record are called.
        relations: Keep the questions of these relations; None keeps all.
        train_paraphrases: Formats in which a question is trained.
        held_out_paraphrases: Other formats in which it is asked.

    Returns:
        One fact per record, in the order of the file, named by file and line.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or of an unknown format, a line is empty or malformed,
            a question has no answer, or a relation does not exist; with the line's number.
    """
    path = Path(path)
    check_paraphrase_counts(train_paraphrases, held_out_paraphrases, len(QUESTION_FORMATS))
    found = [
        (line, *_question(path, line, record, fields, needs_relation=relations is not None))
        for line, record in read_records(path)
    ]
    if not found:
        raise ValueError(f"{path}: no questions in the file; expected at least one record")
    if relations is not None:
        _check_relations(path, relations, {relation for *_, relation in found})
        found = [entry for entry in found if entry[-1] in relations]
    stem = path.name.partition(".")[0]
    return tuple(
        question_fact(
            f"{stem}:{line}",
            question,
            answers,
            relation=relation,
            turn=turn,
            train_paraphrases=train_paraphrases,
            held_out_paraphrases=held_out_paraphrases,
        )
        for turn, (line, question, answers, relation) in enumerate(found)
    )


def read_open_questions(
    path: str | Path, fields: QuestionFields = QuestionFields()
) -> tuple[Question, ...]:
    """Read questions with their answers as they stand, in no paraphrase.

    Args:
        path: A .jsonl or .csv file, also with .gz, .xz or .bz2 behind it.
        fields: What the fields of a record are called.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: As `read_questions`.
    """
    path = Path(path)
    found = tuple(
        Question(*_question(path, line, record, fields, needs_relation=False)[:2])
        for line, record in read_records(path)
    )
    if not found:
        raise ValueError(f"{path}: no questions in the file; expected at least one record")
    return found


def question_fact(
    name: str,
    question: str,
    answers: Sequence[str],
    *,
    relation: str = "",
    turn: int = 0,
    train_paraphrases: int = 8,
    held_out_paraphrases: int = 2,
) -> Fact:
    """The fact that a question and its answers state, in generic question formats.

    Args:
        name: The fact's unique name.
        question: The question, as it stands.
        answers: The accepted answers; the first is taught.
        relation: The group of the fact, if known.
        turn: The fact's place among its neighbours: decides which formats are held out.
        train_paraphrases: Formats in which the question is trained.
        held_out_paraphrases: Other formats in which it is asked; neighbours are trained in them.
    """
    formats = QUESTION_FORMATS[: train_paraphrases + held_out_paraphrases]
    paraphrases = tuple(Paraphrase(text.format(question), f" {answers[0]}") for text in formats)
    train, held_out = rotate_paraphrases(paraphrases, turn, train_paraphrases, held_out_paraphrases)
    return Fact(name, relation, train, held_out, tuple(answers))


def read_texts(path: str | Path, field: str = "text") -> Iterator[str]:
    """Stream texts: the ``field`` of each JSONL or CSV record, or the paragraphs of a .txt file.

    Paragraphs are divided by blank lines. Texts that are blank are passed over.

    Args:
        path: A .jsonl, .csv or .txt file, also with .gz, .xz or .bz2 behind it, or a directory,
            whose files of these kinds are read in the order of their names.
        field: The field of a record that holds the text.

    Yields:
        One text at a time; the file is never held in memory.

    Raises:
        FileNotFoundError: If there is no such file or directory.
        ValueError: If a file is damaged or of an unknown format, a line is empty or malformed, or
            a record lacks the field; with the line's number.
    """
    path = Path(path)
    if not path.is_dir():
        return _texts(path, file_format(path), field)
    files = sorted(file for file in path.iterdir() if has_format(file))
    if not files:
        raise ValueError(f"{path}: no text in this directory; expected {EXPECTED_FORMATS}")
    return (text for file in files for text in _texts(file, file_format(file), field))


def stream_of(
    facts: Sequence[Fact], tasks: int, facts_per_task: int, seed: int
) -> tuple[Task, ...]:
    """Deal facts into the tasks of a stream, in an order given by the seed.

    Facts that ask the same are dealt once: two answers to one question would undo each other.
    A longer stream begins with the tasks of a shorter one.

    Args:
        facts: What to deal from.
        tasks: The number of tasks.
        facts_per_task: Facts of each task.
        seed: Decides the order.

    Returns:
        The tasks.

    Raises:
        ValueError: If a count is below 1 or the facts do not suffice.
    """
    for name, value in (("tasks", tasks), ("facts_per_task", facts_per_task)):
        if value < 1:
            raise ValueError(f"{name}={value}: expected at least 1")
    by_prompts = {frozenset(w.prompt for w in (*f.train, *f.held_out)): f for f in reversed(facts)}
    distinct = list(by_prompts.values())
    needed = tasks * facts_per_task
    if len(distinct) < needed:
        raise ValueError(
            f"tasks={tasks} of facts_per_task={facts_per_task} need {needed} facts, but the "
            f"stream has {len(distinct)} different ones: lower one of the two or give more facts"
        )
    random.Random(f"{seed}/stream").shuffle(distinct)
    return tuple(
        Task(f"task_{number:02d}", tuple(distinct[start : start + facts_per_task]))
        for number, start in enumerate(range(0, needed, facts_per_task))
    )


def _check_relations(path: Path, held_out: Sequence[str], existing: set[str]) -> None:
    unknown = sorted(set(held_out) - existing)
    if unknown or not held_out:
        raise ValueError(
            f"{path}: unknown relations {unknown}; the file has {', '.join(sorted(existing))}"
        )


def _question(
    path: Path, line: int, record: dict[str, Any], fields: QuestionFields, needs_relation: bool
) -> tuple[str, tuple[str, ...], str]:
    """The question, the answers and the relation of a record."""
    question = _first(record, fields.question)
    if not isinstance(question, str) or not question.strip():
        names = _alternatives(fields.question)
        fail_at(path, line, f"no question: expected text in {names}; the record has {list(record)}")
    answers = _answers(path, line, record, fields)
    relation = _first(record, fields.relation)
    if needs_relation and relation is None:
        names = _alternatives(fields.relation)
        fail_at(
            path,
            line,
            f"no field {names}, but some relations are asked for: drop that choice or take a file "
            "whose records name theirs",
        )
    return question.strip(), answers, "" if relation is None else str(relation)


def _answers(
    path: Path, line: int, record: dict[str, Any], fields: QuestionFields
) -> tuple[str, ...]:
    """The accepted answers of a record, each once."""
    names = _alternatives(fields.answers)
    given = _first(record, fields.answers)
    answers = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        fail_at(path, line, f"{names} is {given!r}: expected text or a list of texts")
    kept = tuple(dict.fromkeys(answer.strip() for answer in answers if answer.strip()))
    if not kept:
        fail_at(
            path,
            line,
            f"the question has no answer: expected text or a list of texts in {names}; give one "
            "or take the line out",
        )
    return kept


def _first(record: dict[str, Any], names: Sequence[str]) -> Any:
    """The value of the first field that is there."""
    return next((record[name] for name in names if name in record), None)


def _alternatives(names: Sequence[str]) -> str:
    return " or ".join(map(repr, names))


def _texts(path: Path, kind: str, field: str) -> Iterator[str]:
    """The texts of one file."""
    if kind == ".txt":
        yield from read_paragraphs(path)
        return
    for line, record in read_records(path):
        text = record.get(field)
        if not isinstance(text, str):
            fail_at(path, line, f"no text in the field {field!r}; the record has {list(record)}")
        if text.strip():
            yield text
