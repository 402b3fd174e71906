"""Questions with given choices: HellaSwag and MedMCQA."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from smf_jax.data.files import TEXT, fail_at, file_format, open_text, read_records
from smf_jax.data.records import texts_in
from smf_jax.errors import blame_flag
from smf_jax.paths import PathLike, as_path

ENDINGS = 4
_FIELDS = ("question", "opa", "opb", "opc", "opd", "cop")


class Choice(NamedTuple):
    """A prompt, what may follow it, and what does."""

    prompt: str  # ends without a space
    endings: tuple[str, ...]  # the choices, without the space that divides them from the prompt
    right: int  # the place of the right one


def read_hellaswag(path: PathLike) -> tuple[Choice, ...]:
    """Read HellaSwag items: six lines each, the context, the number of the right ending, 4 endings.

    Texts stay as published: the activity in front, WikiHow's markers taken out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, incomplete or malformed; with the line's number.
    """
    path = as_path(path)
    if file_format(path) != TEXT:
        raise ValueError(f"{path}: HellaSwag is read from plain text; expected .txt")
    with open_text(path) as file:
        lines = [text.strip() for text in file]
    while lines and not lines[-1]:  # blank lines may end the file
        lines.pop()
    size = 2 + ENDINGS
    if not lines or len(lines) % size:
        raise ValueError(
            f"{path}: {len(lines)} lines, expected {size} for each item: the context, the number "
            f"of the right ending and {ENDINGS} endings"
        )
    items = []
    for start in range(0, len(lines), size):
        context, label, *endings = lines[start : start + size]
        if label not in map(str, range(ENDINGS)):
            reason = f"{label!r} is no ending's number; expected 0 to {ENDINGS - 1}"
            fail_at(path, start + 2, reason)
        for line, text in enumerate((context, label, *endings), start + 1):
            _require_text(path, line, text)
        items.append(Choice(context, tuple(endings), int(label)))
    return tuple(items)


def read_medmcqa(path: PathLike) -> tuple[Choice, ...]:
    r"""Read MedMCQA items: records with ``question``, ``opa`` to ``opd`` and ``cop``, 1 to 4.

    The prompt is ``Question: {question}\nAnswer:``; the endings are the options themselves, for
    length-normalised likelihood (S26). Errors are those of `read_hellaswag`.
    """
    path = as_path(path)
    items = tuple(_medmcqa(path, line, record) for line, record in read_records(path))
    if not items:
        raise ValueError(f"{path}: no questions in the file; expected at least one record")
    return items


def _medmcqa(path: Path, line: int, record: dict[str, Any]) -> Choice:
    missing = [name for name in _FIELDS if name not in record]
    if missing:
        fail_at(path, line, f"no {', '.join(missing)}; expected the fields {', '.join(_FIELDS)}")
    *texts, right = (record[name] for name in _FIELDS)
    if str(right) not in map(str, range(1, ENDINGS + 1)):
        fail_at(path, line, f"cop={right}: expected 1 to {ENDINGS}")
    question, *endings = (_require_text(path, line, text) for text in texts)
    return Choice(f"Question: {question}\nAnswer:", tuple(endings), int(right) - 1)


def _require_text(path: Path, line: int, text: Any) -> str:
    """The one text, or number, in a value."""
    with blame_flag(f"{path}, line {line}: "):
        found = list(texts_in(text))
    if len(found) != 1:
        fail_at(path, line, f"expected text for the context and every ending, found {text!r}")
    return found[0]
