"""Questions and texts of tensorflow-datasets in array_record, read without TensorFlow.

Only ``download`` lets it use the network; else a missing set is an error that says what to run.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smf_jax.data.facts import Fact, Question
from smf_jax.data.questions import question_fact

# Where questions, answers and texts are looked for when no feature is named.
_QUESTION_NAMES = ("question", "problem", "query")
_ANSWER_NAMES = ("answers", "answer")
_TEXT_NAMES = ("text", "content", "document", "article")
# The parts of a nested answer: trivia_qa has a value and aliases, squad a list under text.
_ANSWER_PARTS = ("value", "aliases", "text")


@dataclass(frozen=True)
class TfdsSplit:
    """One split of one set, as ``tfds.builder`` names it."""

    name: str  # with configuration and version if need be: ``trivia_qa/unfiltered.nocontext``
    split: str  # or a slice of one: ``validation``, ``train[:1000]``
    data_dir: str | Path | None = None  # where prepared sets lie; None is ``TFDS_DATA_DIR``

    def __str__(self) -> str:
        return f"tfds:{self.name}:{self.split}"


def read_tfds_questions(
    source: TfdsSplit, *, question: str = "", answers: str = "", download: bool = False
) -> tuple[Fact, ...]:
    """`read_tfds_open_questions` as facts in paraphrases, named by their places in the split."""
    found = read_tfds_open_questions(source, question=question, answers=answers, download=download)
    return tuple(
        question_fact(f"{source.name}/{source.split}:{place}", each, turn=place)
        for place, each in enumerate(found)
    )


def read_tfds_open_questions(
    source: TfdsSplit, *, question: str = "", answers: str = "", download: bool = False
) -> tuple[Question, ...]:
    """Read questions with their answers as they stand, in no paraphrase.

    ``question`` and ``answers`` name features, nested ones with slashes; empty ones are looked for.
    Answers are a text, a sequence of texts, or a group with ``value`` and ``aliases`` or with
    ``text``. ``download`` prepares a set by the network. A ValueError tells of no such set, split
    or feature, a set not prepared as array_record, or a question without an answer.
    """
    builder = _prepared(source, download)
    question = question or _find(source, builder, _QUESTION_NAMES, "question")
    answers = answers or _find(source, builder, _ANSWER_NAMES, "answers")
    found = []
    for place, record in enumerate(_records(source, builder)):
        text = _texts_of(_at(source, record, question))
        accepted = _accepted(_at(source, record, answers))
        if len(text) != 1:
            raise ValueError(f"{source}, record {place}: no question in the feature {question!r}")
        if not accepted:
            raise ValueError(
                f"{source}, record {place}: the question {text[0]!r} has no answer in the feature "
                f"{answers!r}: choose another feature or a split with answers"
            )
        found.append(Question(text[0], accepted))
    if not found:
        raise ValueError(f"{source}: no questions in the split; expected at least one record")
    return tuple(found)


def read_tfds_texts(source: TfdsSplit, *, text: str = "", download: bool = False) -> Iterator[str]:
    """Stream a set's texts but blank ones; the feature is found, and errors are raised, at once."""
    builder = _prepared(source, download)
    feature = text or _find(source, builder, _TEXT_NAMES, "text")
    records = _records(source, builder)
    return (found for record in records for found in _texts_of(_at(source, record, feature)))


def tfds_files(source: TfdsSplit) -> list[Path]:
    """The files of a prepared set that a split is read from."""
    builder = _prepared(source, download=False)
    shards = builder.info.splits[source.split].filepaths
    return [Path(builder.data_dir, "features.json"), *map(Path, shards)]


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


def _find(source: TfdsSplit, builder: Any, names: tuple[str, ...], what: str) -> str:
    """The first of the usual names that the set has."""
    features = sorted(builder.info.features)
    if found := next((name for name in names if name in features), None):
        return found
    raise ValueError(
        f"{source}: found no feature with the {what} (looked for {', '.join(names)}); the set has "
        f"{', '.join(features)}: name the one to read"
    )


def _at(source: TfdsSplit, record: Mapping[str, Any], feature: str) -> Any:
    """The value of a feature, given by its path."""
    value: Any = record
    for part in feature.split("/"):
        if not isinstance(value, Mapping) or part not in value:
            known = ", ".join(value) if isinstance(value, Mapping) else "no parts"
            raise ValueError(f"{source}: no feature {feature!r}: {part!r} is not among {known}")
        value = value[part]
    return value


def _accepted(value: Any) -> tuple[str, ...]:
    """The accepted answers in a feature, each once, the one to teach first."""
    if isinstance(value, Mapping):
        value = [value[name] for name in _ANSWER_PARTS if name in value]
    return tuple(dict.fromkeys(_texts_of(value)))


def _texts_of(value: Any) -> tuple[str, ...]:
    """The texts in a value, a text or a sequence of them; bytes are decoded, blanks left out."""
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if isinstance(value, str):
        return (value.strip(),) if value.strip() else ()
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        return ()
    return tuple(text for part in value for text in _texts_of(part))
