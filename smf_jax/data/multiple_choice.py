"""Questions with given choices: HellaSwag and MedMCQA."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smf_jax.data.files import fail_at, file_format, read_lines, read_records

ENDINGS = 4
_OPTIONS = ("opa", "opb", "opc", "opd")
_ANSWER = "cop"


@dataclass(frozen=True)
class Choice:
    """A prompt, what may follow it, and what does."""

    # Ends without a space.
    prompt: str
    # The choices, without the space that divides them from the prompt.
    endings: tuple[str, ...]
    # The place of the right one.
    right: int


def read_hellaswag(path: str | Path) -> tuple[Choice, ...]:
    """Read HellaSwag items: six lines each, the context, the number of the right ending, 4 endings.

    The context and the endings are taken as they stand, which in the published file is with the
    activity in front and the markers of WikiHow taken out.

    Args:
        path: A .txt file, also with .gz, .xz or .bz2 behind it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or of another format, ends within an item, or an item is
            malformed; with the line's number.
    """
    path = Path(path)
    if file_format(path) != ".txt":
        raise ValueError(f"{path}: HellaSwag is read from plain text; expected .txt")
    lines = list(read_lines(path))
    size = 2 + ENDINGS
    if not lines or len(lines) % size:
        raise ValueError(
            f"{path}: {len(lines)} lines, expected {size} for each item: the context, the number "
            f"of the right ending and {ENDINGS} endings"
        )
    items = []
    for start in range(0, len(lines), size):
        (first, context), (line, label), *endings = lines[start : start + size]
        if label.strip() not in map(str, range(ENDINGS)):
            fail_at(path, line, f"{label!r} is no ending's number; expected 0 to {ENDINGS - 1}")
        _require_text(path, [(first, context), *endings])
        texts = tuple(text.strip() for _, text in endings)
        items.append(Choice(context.strip(), texts, int(label)))
    return tuple(items)


def read_medmcqa(path: str | Path) -> tuple[Choice, ...]:
    r"""Read MedMCQA items: records with ``question``, ``opa`` to ``opd`` and ``cop``, 1 to 4.

    The prompt is ``Question: {question}\nAnswer:``; the options themselves are the endings, so
    that they can be compared by length-normalised likelihood (S26).

    Args:
        path: A .jsonl or .csv file, also with .gz, .xz or .bz2 behind it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or of another format, or a record is malformed; with the
            line's number.
    """
    path = Path(path)
    items = tuple(_medmcqa(path, line, record) for line, record in read_records(path))
    if not items:
        raise ValueError(f"{path}: no questions in the file; expected at least one record")
    return items


def _medmcqa(path: Path, line: int, record: dict[str, Any]) -> Choice:
    needed = ("question", *_OPTIONS, _ANSWER)
    missing = [name for name in needed if name not in record]
    if missing:
        fail_at(path, line, f"no {', '.join(missing)}; expected the fields {', '.join(needed)}")
    right = record[_ANSWER]
    if str(right) not in map(str, range(1, ENDINGS + 1)):
        fail_at(path, line, f"{_ANSWER}={right!r}: expected 1 to {ENDINGS}")
    _require_text(path, [(line, record[name]) for name in needed[:-1]])
    prompt = f"Question: {record['question'].strip()}\nAnswer:"
    return Choice(prompt, tuple(record[name].strip() for name in _OPTIONS), int(right) - 1)


def _require_text(path: Path, texts: list[tuple[int, Any]]) -> None:
    for line, text in texts:
        if not isinstance(text, str) or not text.strip():
            fail_at(path, line, f"expected text for the context and every ending, found {text!r}")
