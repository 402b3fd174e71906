"""What a flag names: questions or text, in a file, a directory or a set of tensorflow-datasets.

A source is a path, or ``SCHEME:REST`` of `SCHEMES`; `smf_jax.data.files` has the formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from smf_jax.data.answer_order import AnswerOrder
from smf_jax.data.facts import Fact, Question
from smf_jax.data.files import TEXT, file_format, read_texts, read_whole, text_files
from smf_jax.data.questions import Fields, read_open_questions, read_questions
from smf_jax.data.tfds_source import (
    parse_tfds,
    read_tfds_open_questions,
    read_tfds_questions,
    read_tfds_texts,
    tfds_files,
)
from smf_jax.errors import blame_flag
from smf_jax.paths import as_path


@dataclass(frozen=True)
class Reader:
    """Reads what ``--flag=source`` names for one command; errors name the flag, file and line."""

    data_dir: str = ""  # where prepared tensorflow-datasets lie; empty for their default
    download: bool = False  # whether sets that are not prepared may be, which uses the network
    text_field: str = ""  # where texts stand in a record; empty for where they are looked for
    question_field: str = ""  # where questions do, and their answers: dotted paths, or several
    answers_field: str = ""
    answer_order: AnswerOrder = "given"  # of several accepted answers

    @property
    def fields(self) -> Fields:
        """Where the parts of questions are looked for."""
        return Fields.of(self.question_field, self.answers_field, self.answer_order)

    def questions(
        self,
        source: str,
        flag: str,
        relations: Sequence[str] | None = None,
        *,
        kinds: bool = False,
    ) -> tuple[Fact, ...]:
        """The questions of a source in paraphrases, of all relations or of some.

        With ``kinds`` the questions about a fact in other kinds are read too.
        """
        picked = "" if relations is None else f" --relation={','.join(relations)}"
        with self._opened(source, flag, picked) as opened:
            if relations is not None and not opened.has_relations:
                raise ValueError(
                    f"{picked.strip()} picks from a file's relations, but --{flag}={source} is a "
                    "set without; leave it out"
                )
            return opened.questions(relations, kinds)

    def open_questions(self, source: str, flag: str) -> tuple[Question, ...]:
        """The questions of a source as they stand, in no paraphrase."""
        with self._opened(source, flag) as opened:
            return opened.open_questions()

    def texts(self, source: str, flag: str) -> Iterator[str]:
        """The texts of a source, one at a time."""
        with self._opened(source, flag) as opened:
            yield from opened.texts()

    def whole_text(self, source: str, flag: str, characters: int = -1) -> str:
        """One text: a .txt file as it stands, else all texts with blank lines between them.

        About so many ``characters`` are read, from the beginning; all where it is negative.
        """
        with self._opened(source, flag) as opened:
            return opened.whole_text(characters)

    def files(self, source: str, flag: str) -> list[Path]:
        """The files that a source is read from."""
        with self._opened(source, flag) as opened:
            return opened.files()

    @contextmanager
    def _opened(self, source: str, flag: str, picked: str = "") -> Iterator[Source]:
        """What is read by the scheme of a source; errors inside name the flag."""
        scheme, colon, _ = source.partition(":")
        with blame_flag(f"--{flag}{picked}: "):
            yield (SCHEMES.get(scheme, Source) if colon else Source)(self, source, flag)


class Source:
    """A file, or a directory of texts: what has no scheme. Nothing is read before it is asked."""

    has_relations = True

    def __init__(self, reader: Reader, source: str, flag: str) -> None:
        self._path, self._reader = existing(source, flag), reader

    def files(self) -> list[Path]:
        return text_files(self._path)

    def questions(self, relations: Sequence[str] | None, kinds: bool) -> tuple[Fact, ...]:
        fields = self._reader.fields
        return read_questions(self._path, relations=relations, fields=fields, kinds=kinds)

    def open_questions(self) -> tuple[Question, ...]:
        return read_open_questions(self._path, self._reader.fields)

    def texts(self) -> Iterator[str]:
        return read_texts(self._path, self._reader.text_field or "text")

    def whole_text(self, characters: int) -> str:
        if self._path.is_file() and file_format(self._path) == TEXT:
            return read_whole(self._path, characters)
        return _joined(self.texts(), characters)


class TfdsSource(Source):
    """A split of a set of tensorflow-datasets, ``tfds:NAME:SPLIT``."""

    has_relations = False

    def __init__(self, reader: Reader, source: str, flag: str) -> None:
        self._split = parse_tfds(source, f"--{flag}", reader.data_dir or None)
        self._reader = reader

    def files(self) -> list[Path]:
        return tfds_files(self._split)

    def questions(self, relations: Sequence[str] | None, kinds: bool) -> tuple[Fact, ...]:
        return read_tfds_questions(self._split, self._reader.fields, download=self._reader.download)

    def open_questions(self) -> tuple[Question, ...]:
        return read_tfds_open_questions(
            self._split, self._reader.fields, download=self._reader.download
        )

    def texts(self) -> Iterator[str]:
        return read_tfds_texts(
            self._split, text=self._reader.text_field, download=self._reader.download
        )

    def whole_text(self, characters: int) -> str:
        return _joined(self.texts(), characters)


SCHEMES: Mapping[str, type[Source]] = {"tfds": TfdsSource}


def existing(source: str, flag: str) -> Path:
    """The path that ``--flag=source`` names, or a ``FileNotFoundError`` that says so."""
    with blame_flag(f"--{flag}="):
        path = as_path(source)
    if not source or not path.exists():
        raise FileNotFoundError(
            f"--{flag}={source}: no such file or directory; give a file, or a set as "
            "tfds:NAME:SPLIT"
        )
    return path


def _joined(texts: Iterator[str], characters: int) -> str:
    """Texts with blank lines between them, up to the one that reaches so many characters."""
    parts: list[str] = []
    length = 0
    for text in texts:
        parts.append(text)
        length += len(text) + 2
        if 0 <= characters <= length:
            break
    return "\n\n".join(parts)
