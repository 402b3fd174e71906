"""Records, paragraphs and texts of files: JSONL, CSV and plain text, also .gz, .xz or .bz2.

A format of records is one entry of ``_RECORDS``, a compression one of ``_OPENERS``.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

_OPENERS = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
TEXT = ".txt"


def file_format(path: Path) -> str:
    """The format of a file: ``.jsonl``, ``.csv`` or ``.txt``, whatever it is compressed with.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the suffix names another format.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if not _has_format(path):
        raise ValueError(f"{path}: unknown format; expected {_expected()}")
    return _plain_name(path).suffix


def holds_records(path: Path) -> bool:
    """Whether the name of a file says that it holds records."""
    return _plain_name(path).suffix in _RECORDS


def _has_format(path: Path) -> bool:
    return _plain_name(path).suffix in (*_RECORDS, TEXT)


def _expected() -> str:
    return f"{', '.join((*_RECORDS, TEXT))}, alone or followed by {', '.join(_OPENERS)}"


def fail_at(path: Path, line: int, message: str) -> NoReturn:
    """Raise a ``ValueError`` that names the file and the line."""
    raise ValueError(f"{path}, line {line}: {message}")


def read_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a .jsonl or .csv file with their line numbers, from 1.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another format or damaged, or a line empty or malformed.
    """
    kind = file_format(path)
    if kind == TEXT:
        raise ValueError(f"{path}: plain text has no fields; expected {' or '.join(_RECORDS)}")
    return _RECORDS[kind](path)


def read_texts(path: str | Path) -> Iterator[str]:
    """Stream texts: the field ``text`` of each record, or the paragraphs of a .txt file.

    Texts that are blank are passed over.

    Args:
        path: A .jsonl, .csv or .txt file, also with .gz, .xz or .bz2 behind it, or a directory,
            whose files of these kinds are read in the order of their names.

    Yields:
        One text at a time; the file is never held in memory.

    Raises:
        FileNotFoundError: If there is no such file or directory.
        ValueError: If a file is damaged or of an unknown format, a line is empty or malformed, or
            a record has no text; with the line's number.
    """
    path = Path(path)
    if not path.is_dir():
        return _texts(path, file_format(path))
    files = sorted(file for file in path.iterdir() if _has_format(file))
    if not files:
        raise ValueError(f"{path}: no text in this directory; expected {_expected()}")
    return (text for file in files for text in _texts(file, file_format(file)))


def _texts(path: Path, kind: str) -> Iterator[str]:
    """The texts of one file."""
    if kind == TEXT:
        yield from read_paragraphs(path)
        return
    for line, record in read_records(path):
        text = record.get("text")
        if not isinstance(text, str):
            fail_at(path, line, f"no text in the field 'text'; the record has {list(record)}")
        if text.strip():
            yield text


def read_paragraphs(path: Path) -> Iterator[str]:
    """The paragraphs of a text file, which blank lines divide.

    Raises:
        ValueError: If the file is damaged.
    """
    lines: list[str] = []
    with open_text(path) as file:
        for text in file:
            if text.strip():
                lines.append(text.strip())
            elif lines:
                yield "\n".join(lines)
                lines = []
    if lines:
        yield "\n".join(lines)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file without their ends, with their numbers, from 1.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of an unknown format or damaged.
    """
    file_format(path)
    with open_text(path) as file:
        for line, text in enumerate(file, start=1):
            yield line, text.rstrip("\r\n")


def read_whole(path: Path, limit: int) -> str:
    """The beginning of a text file as it stands, blank lines and all.

    Args:
        path: A .txt file, also with .gz, .xz or .bz2 behind it.
        limit: Characters that are read at most; negative for all.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of an unknown format or damaged.
    """
    file_format(path)
    with open_text(path) as file:
        return file.read(limit)


def _plain_name(path: Path) -> Path:
    """The file's name without the suffix of its compression."""
    return path.with_suffix("") if path.suffix in _OPENERS else path


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """The file as text, decompressed; damage becomes an error that names the file."""
    opener = _OPENERS.get(path.suffix, open)
    try:
        with opener(path, "rt", encoding="utf-8", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text: {error}") from error
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        if getattr(error, "errno", None) is not None:  # the system's word: not the file's content
            raise
        raise ValueError(f"{path}: damaged or cut short: {error}; fetch the file anew") from error


def _json_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with open_text(path) as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                fail_at(path, line, "empty; expected one JSON object per line: take the line out")
            try:
                record = json.loads(text)
            except ValueError as error:
                fail_at(path, line, f"malformed JSON: {error}; expected one object per line")
            if not isinstance(record, dict):
                fail_at(path, line, f"expected a JSON object, found {type(record).__name__}")
            yield line, record


def _csv_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows by the names in the header; a cell with a JSON list counts as a list."""
    with open_text(path) as file:
        reader = csv.DictReader(file, strict=True)
        line = 2
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                fail_at(path, line, f"malformed CSV: {error}")
            if row is None:
                return
            if None in row or None in row.values():
                names = list(reader.fieldnames or ())
                fail_at(path, line, f"expected {len(names)} cells, one for each of {names}")
            yield line, {name: _cell(value) for name, value in row.items()}
            line = reader.line_num + 1


def _cell(text: str) -> Any:
    """A list where the cell holds one as JSON, else the text."""
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


_RECORDS: Mapping[str, Callable[[Path], Iterator[tuple[int, dict[str, Any]]]]] = {
    ".jsonl": _json_records,
    ".csv": _csv_records,
}
# What a help text says of a file of records.
RECORD_FILES = f"{' or '.join(_RECORDS)}, also with {', '.join(_OPENERS)} behind it"
