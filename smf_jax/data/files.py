"""Records and texts of files: JSONL, CSV and plain text, also .gz, .xz or .bz2.

Formats are entries of ``_RECORDS``, compressions of ``_OPENERS``; errors name the file and line.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import IO, Any, NoReturn

_OPENERS = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
TEXT = ".txt"


def _format(path: Path) -> str:
    """The suffix of a file's name, without that of its compression."""
    return (path.with_suffix("") if path.suffix in _OPENERS else path).suffix


def file_format(path: Path) -> str:
    """The format of a file: ``.jsonl``, ``.csv`` or ``.txt``, whatever it is compressed with."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if _format(path) not in _FORMATS:
        raise ValueError(f"{path}: unknown format; expected {_EXPECTED}")
    return _format(path)


def holds_records(path: Path) -> bool:
    """Whether the name of a file says that it holds records."""
    return _format(path) in _RECORDS


def fail_at(path: Path, line: int, message: str) -> NoReturn:
    """Raise a ``ValueError`` that names the file and the line."""
    raise ValueError(f"{path}, line {line}: {message}")


def read_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a .jsonl or .csv file with their line numbers, from 1."""
    kind = file_format(path)
    if kind == TEXT:
        raise ValueError(f"{path}: plain text has no fields; expected {' or '.join(_RECORDS)}")
    return _RECORDS[kind](path)


def read_texts(path: str | Path) -> Iterator[str]:
    """Stream texts: the field ``text`` of each record, or the paragraphs of a .txt file.

    A directory's files are read by name; blank texts are skipped, and no file is held in memory.
    """
    files = text_files(Path(path))
    if len(files) == 1:  # what it is is told at once
        return _texts(files[0], file_format(files[0]))
    return (text for file in files for text in _texts(file, file_format(file)))


def text_files(path: Path) -> list[Path]:
    """The files that texts are read from: one, or those of a directory by name."""
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if _format(file) in _FORMATS)
    if not files:
        raise ValueError(f"{path}: no text in this directory; expected {_EXPECTED}")
    return files


def _texts(path: Path, kind: str) -> Iterator[str]:
    """The texts of one file; blank lines divide the paragraphs of plain text."""
    if kind == TEXT:
        with open_text(path) as file:
            for filled, lines in groupby(map(str.strip, file), key=bool):
                if filled:
                    yield "\n".join(lines)
        return
    for line, record in read_records(path):
        text = record.get("text")
        if not isinstance(text, str):
            fail_at(path, line, f"no text in the field 'text'; the record has {list(record)}")
        if text.strip():
            yield text


def read_whole(path: Path, limit: int = -1) -> str:
    """The first ``limit`` characters of a text file as it stands; negative for all."""
    file_format(path)
    with open_text(path) as file:
        return file.read(limit)


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
    line = 2
    with open_text(path) as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    names = list(reader.fieldnames or ())
                    fail_at(path, line, f"expected {len(names)} cells, one for each of {names}")
                yield line, {name: _cell(value) for name, value in row.items()}
                line = reader.line_num + 1
        except csv.Error as error:
            fail_at(path, line, f"malformed CSV: {error}")


def _cell(text: str) -> Any:
    """A list where the cell holds one as JSON, else the text."""
    try:
        return json.loads(text) if text.startswith("[") else text
    except ValueError:
        return text


_RECORDS = {".jsonl": _json_records, ".csv": _csv_records}
_FORMATS = (*_RECORDS, TEXT)
_EXPECTED = f"{', '.join(_FORMATS)}, alone or followed by {', '.join(_OPENERS)}"
# What a help text says of a file of records.
RECORD_FILES = f"{' or '.join(_RECORDS)}, also with {', '.join(_OPENERS)} behind it"
