"""What a flag names: questions or text, in a file or in a set of tensorflow-datasets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from smf_jax.data.facts import Fact, Question
from smf_jax.data.files import file_format, read_whole
from smf_jax.data.sources import read_open_questions, read_questions, read_texts
from smf_jax.data.tfds_source import (
    parse_tfds,
    read_tfds_open_questions,
    read_tfds_questions,
    read_tfds_texts,
)
from smf_jax.errors import blame_flag


@dataclass(frozen=True)
class Reader:
    """Reads sources for one command.

    Attributes:
      data_dir: where prepared tensorflow-datasets lie; empty for their default.
      download: whether sets that are not prepared may be, which uses the network.
    """

    data_dir: str = ""
    download: bool = False

    def questions(
        self, source: str, flag: str, relations: Sequence[str] | None = None
    ) -> tuple[Fact, ...]:
        """The questions that ``--flag=source`` names.

        Raises:
          ValueError: naming the flag, the file and the line.
        """
        if source.startswith("tfds:"):
            if relations is not None:
                raise ValueError(
                    f"--relation={','.join(relations)} picks from a file's relations, but "
                    f"--{flag}={source} is a set without; leave it out"
                )
            split = parse_tfds(source, f"--{flag}", self.data_dir or None)
            with blame_flag(f"--{flag}: "):
                return read_tfds_questions(split, download=self.download)
        picked = "" if relations is None else f" --relation={','.join(relations)}"
        with blame_flag(f"--{flag}{picked}: "):
            return read_questions(existing(source, flag), relations=relations)

    def open_questions(self, source: str, flag: str) -> tuple[Question, ...]:
        """The questions that ``source`` names as they stand, in no paraphrase.

        Raises:
          ValueError: naming the flag, the file and the line.
        """
        with blame_flag(f"--{flag}: "):
            if source.startswith("tfds:"):
                split = parse_tfds(source, f"--{flag}", self.data_dir or None)
                return read_tfds_open_questions(split, download=self.download)
            return read_open_questions(existing(source, flag))

    def whole_text(self, source: str, flag: str, characters: int = -1) -> str:
        """One text: a .txt file as it stands, else all texts with blank lines between them.

        Args:
          source: the value of the flag.
          flag: its name.
          characters: about how many to read, from the beginning; negative for all.

        Raises:
          ValueError: naming the flag, the file and the line.
        """
        if not source.startswith("tfds:"):
            path = existing(source, flag)
            with blame_flag(f"--{flag}: "):
                if path.is_file() and file_format(path) == ".txt":
                    return read_whole(path, characters)
        parts: list[str] = []
        length = 0
        for text in self.texts(source, flag):
            parts.append(text)
            length += len(text) + 2
            if 0 <= characters <= length:
                break
        return "\n\n".join(parts)

    def texts(self, source: str, flag: str) -> Iterator[str]:
        """The texts that ``--flag=source`` names, one at a time.

        Raises:
          ValueError: naming the flag, the file and the line.
        """
        with blame_flag(f"--{flag}: "):
            if source.startswith("tfds:"):
                split = parse_tfds(source, f"--{flag}", self.data_dir or None)
                yield from read_tfds_texts(split, download=self.download)
            else:
                yield from read_texts(existing(source, flag))


def existing(source: str, flag: str) -> Path:
    """The path that ``--flag=source`` names.

    Raises:
      FileNotFoundError: if nothing is there.
    """
    path = Path(source)
    if not source or not path.exists():
        raise FileNotFoundError(
            f"--{flag}={source}: no such file or directory; give a file, or a set as "
            "tfds:NAME:SPLIT"
        )
    return path
