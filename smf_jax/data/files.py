"""Records and texts of files: JSONL, CSV, TSV and plain text, also .gz, .xz or .bz2.

Formats are entries of ``_RECORDS``, compressions of ``_OPENERS``; errors name the file and line.
Text is UTF-8, or what the byte order mark at its beginning says.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import IO, Any, NoReturn

from smf_jax.data.records import at, parse_json, paths_of
from smf_jax.errors import blame_flag
from smf_jax.paths import PathLike, as_path, local

_OPENERS = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
TEXT = ".txt"
# Encodings by the mark that Excel and Notepad begin a file with; that of UTF-16 begins UTF-32's.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    **dict.fromkeys((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "utf-32"),
    **dict.fromkeys((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "utf-16"),
}


def _format(path: Path) -> str:
    """The suffix of a file's name, without that of its compression."""
    return (path.with_suffix("") if path.suffix in _OPENERS else path).suffix


def file_format(path: Path) -> str:
    """The format of a file: ``.jsonl``, ``.csv``, ``.tsv`` or ``.txt``, compressed or not."""
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
    """The records of a .jsonl, .csv or .tsv file with their line numbers, from 1."""
    kind = file_format(path)
    if kind == TEXT:
        raise ValueError(f"{path}: plain text has no fields; expected {' or '.join(_RECORDS)}")
    return _RECORDS[kind](path)


def read_texts(path: PathLike, field: str = "text") -> Iterator[str]:
    """Stream texts: a field of each record, by its dotted path, or the paragraphs of a .txt file.

    A directory's files are read by name; blank texts are skipped, and no file is held in memory.
    """
    files = text_files(as_path(path))
    if len(files) == 1:  # what it is is told at once
        return _texts(files[0], file_format(files[0]), field)
    return (text for file in files for text in _texts(file, file_format(file), field))


def text_files(path: Path) -> list[Path]:
    """The files that texts are read from: one, or those of a directory by name."""
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if _format(file) in _FORMATS)
    if not files:
        raise ValueError(f"{path}: no text in this directory; expected {_EXPECTED}")
    return files


def _texts(path: Path, kind: str, field: str) -> Iterator[str]:
    """The texts of one file; blank lines divide the paragraphs of plain text."""
    if kind == TEXT:
        with open_text(path) as file:
            for filled, lines in groupby(map(str.strip, file), key=bool):
                if filled:
                    yield "\n".join(lines)
        return
    for line, record in read_records(path):
        with blame_flag(f"{path}, line {line}: "):
            text = at(record, field)
        if not isinstance(text, str):
            has = f"the record has {list(paths_of(record))}: name the one to read with --text_field"
            fail_at(path, line, f"no text in the field {field!r}; {has}")
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
    encoding = "utf-8"
    try:
        with opener(local(path), "rb") as packed:
            start = packed.read(4)
            packed.seek(0)
            encoding = next((_MARKS[mark] for mark in _MARKS if start.startswith(mark)), encoding)
            if encoding == "utf-8" and b"\0" in start:
                raise ValueError(f"{path}: zero bytes in its text: UTF-16? Save the file as UTF-8")
            with io.TextIOWrapper(packed, encoding=encoding, newline="") as file:
                yield file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not {encoding.upper()} text: {error}") from error
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        if getattr(error, "errno", None) is not None:  # the system's word: not the file's content
            raise
        raise ValueError(f"{path}: damaged or cut short: {error}; fetch the file anew") from error


def _json_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects, one a line; blank lines may end the file."""
    blank = 0
    with open_text(path) as file:
        for line, text in enumerate(file, start=1):
            text = text.strip().lstrip("\ufeff")  # a mark within, where files were joined
            if not text:
                blank = blank or line
                continue
            if blank:
                fail_at(path, blank, "empty; expected one JSON object per line: take the line out")
            try:
                record = parse_json(text)
            except (json.JSONDecodeError, RecursionError) as error:
                fail_at(path, line, f"malformed JSON: {error}; expected one object per line")
            except ValueError as error:
                fail_at(path, line, str(error))
            if not isinstance(record, dict):
                fail_at(path, line, f"expected a JSON object, found {type(record).__name__}")
            yield line, record


def _csv_records(path: Path, delimiter: str = ",") -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows by the names in the header."""
    line = 1
    csv.field_size_limit(2**31 - 1)  # a document may be one cell
    with open_text(path) as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            names = [name.strip() for name in reader.fieldnames or ()]
            if twice := sorted({name for name in names if name and names.count(name) > 1}):
                fail_at(path, line, f"the header names {twice} twice: rename or drop a column")
            reader.fieldnames = names
            line = reader.line_num + 1
            for row in reader:
                if None in row or None in row.values():
                    fail_at(path, line, f"expected {len(names)} cells, one for each of {names}")
                yield line, row
                line = reader.line_num + 1
        except csv.Error as error:
            fail_at(path, line, f"malformed CSV: {error}")


_RECORDS = {
    ".jsonl": _json_records,
    ".csv": _csv_records,
    ".tsv": partial(_csv_records, delimiter="\t"),
}
_FORMATS = (*_RECORDS, TEXT)
_EXPECTED = f"{', '.join(_FORMATS)}, alone or followed by {', '.join(_OPENERS)}"
# What a help text says of a file of records.
RECORD_FILES = f"{' or '.join(_RECORDS)}, also with {', '.join(_OPENERS)} behind it"
