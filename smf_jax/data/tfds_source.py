"""Questions and texts of tensorflow-datasets in array_record, read without TensorFlow.

Only ``download`` lets it use the network; else a missing set is an error that says what to run.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smf_jax.data.facts import Fact, Question
from smf_jax.data.questions import USUAL, Fields, question_fact, question_in
from smf_jax.data.records import at, paths_of, texts_in
from smf_jax.errors import blame_flag
from smf_jax.paths import as_path

# Where texts are looked for when no feature is named.
_TEXT_NAMES = ("text", "content", "document", "article")


@dataclass(frozen=True)
class TfdsSplit:
    """One split of one set, as ``tfds.builder`` names it."""

    name: str  # with configuration and version if need be: ``trivia_qa/unfiltered.nocontext``
    split: str  # or a slice of one: ``validation``, ``train[:1000]``
    data_dir: str | Path | None = None  # where prepared sets lie; None is ``TFDS_DATA_DIR``

    def __str__(self) -> str:
        return f"tfds:{self.name}:{self.split}"


def read_tfds_questions(
    source: TfdsSplit, fields: Fields = USUAL, *, download: bool = False
) -> tuple[Fact, ...]:
    """`read_tfds_open_questions` as facts in paraphrases, named by their places in the split."""
    found = read_tfds_open_questions(source, fields, download=download)
    return tuple(
        question_fact(f"{source.name}/{source.split}:{place}", each, turn=place)
        for place, each in enumerate(found)
    )


def read_tfds_open_questions(
    source: TfdsSplit, fields: Fields = USUAL, *, download: bool = False
) -> tuple[Question, ...]:
    """Read questions with their answers as they stand, in no paraphrase, as `question_in` does.

    ``download`` prepares a set by the network. A ValueError tells of no such set or split, a set
    not prepared as array_record, or a record without a question or an answer.
    """
    found = []
    for place, record in enumerate(_records(source, _prepared(source, download))):
        with blame_flag(f"{source}, record {place}: "):
            found.append(question_in(record, fields))
    if not found:
        raise ValueError(f"{source}: no questions in the split; expected at least one record")
    return tuple(found)


def read_tfds_texts(source: TfdsSplit, *, text: str = "", download: bool = False) -> Iterator[str]:
    """Stream a set's texts but blank ones; the feature is found, and errors are raised, at once."""
    builder = _prepared(source, download)
    features = sorted(builder.info.features)
    feature = text or next((name for name in _TEXT_NAMES if name in features), "")
    if not feature or re.split("[./]", feature)[0] not in features:
        looked = feature or ", ".join(_TEXT_NAMES)
        raise ValueError(
            f"{source}: found no feature with the text (looked for {looked}); the set has "
            f"{', '.join(features)}: name the one to read with --text_field"
        )
    return _texts(source, feature, _records(source, builder))


def _texts(source: TfdsSplit, feature: str, records: Iterator[Mapping[str, Any]]) -> Iterator[str]:
    for place, record in enumerate(records):
        with blame_flag(f"{source}, record {place}: "):
            if (value := at(record, feature)) is None:
                has = ", ".join(paths_of(record))
                raise ValueError(f"no text in the feature {feature!r}; the record has {has}")
            yield from texts_in(value)


def tfds_files(source: TfdsSplit) -> list[Path]:
    """The files of a prepared set that a split is read from."""
    builder = _prepared(source, download=False)
    shards = builder.info.splits[source.split].filepaths
    return [as_path(builder.data_dir) / "features.json", *map(as_path, shards)]


def parse_tfds(text: str, flag: str, data_dir: str | Path | None = None) -> TfdsSplit:
    """The split that ``tfds:NAME:SPLIT`` names; the ``ValueError`` names the flag."""
    scheme, _, rest = text.partition(":")
    name, _, split = rest.partition(":")
    if scheme != "tfds" or not name or not split:
        raise ValueError(
            f"{flag}={text}: expected tfds:NAME:SPLIT, such as tfds:trivia_qa/rc:validation or "
            "tfds:natural_questions_open:train[:1000]"
        )
    return TfdsSplit(name, split, data_dir)


def _prepared(source: TfdsSplit, download: bool) -> Any:
    """The builder of a set that can be read."""
    if ":" in source.name:  # such as huggingface:squad, which tfds would fetch from elsewhere
        raise ValueError(f"{source}: expected the plain name of a set, without a namespace")
    # Imported late: it takes most of a second, which only those who read a set shall pay.
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(source.name, data_dir=source.data_dir)
    except tfds.core.DatasetNotFoundError as error:
        plain = source.name.partition("/")[0]
        near = difflib.get_close_matches(plain, tfds.list_builders(with_community_datasets=False))
        hint = f"did you mean {' or '.join(near)}?" if near else "check the name and data_dir"
        raise ValueError(
            f"{source}: tensorflow-datasets has no set {plain!r}, and none is prepared under that "
            f"name in data_dir={source.data_dir}: {hint}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{source}: cannot be opened: {error}") from error
    if not builder.is_prepared():
        if not download:
            raise ValueError(
                f"{source}: not prepared in {builder.data_dir}. Allow the download with "
                f"--download, or prepare it once where there is a network: "
                f"{_prepare_command(source)}"
            )
        builder.download_and_prepare(file_format="array_record")
    return builder


def _prepare_command(source: TfdsSplit) -> str:
    """The command line that prepares a set as it can be read."""
    place = "" if source.data_dir is None else f", data_dir='{source.data_dir}'"
    return (
        f"python -c \"import tensorflow_datasets as tfds; tfds.builder('{source.name}'{place})"
        ".download_and_prepare(file_format='array_record')\""
    )


def _records(source: TfdsSplit, builder: Any) -> Iterator[Mapping[str, Any]]:
    """The records of a split; the split is opened at once."""
    try:
        records = builder.as_data_source(split=source.split)
    except NotImplementedError as error:
        raise ValueError(
            f"{source}: prepared as {builder.info.file_format.value}, which only TensorFlow reads; "
            f"expected array_record: {_prepare_command(source)}, with another data_dir"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{source}: no such split; the set has {', '.join(sorted(builder.info.splits))}, "
            "and slices are written train[:1000] or train[10%:]"
        ) from error
    return (records[place] for place in range(len(records)))
