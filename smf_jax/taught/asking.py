"""Asking a taught model, with and without its patches, and where its answers were read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from smf_jax.bases.base import Base
from smf_jax.data.facts import Question
from smf_jax.data.files import TEXT, file_format
from smf_jax.data.readers import Reader, existing
from smf_jax.errors import blame_flag
from smf_jax.evaluation.probes.open import PROMPT
from smf_jax.evaluation.scorer import Scorer
from smf_jax.params import Params
from smf_jax.sparse.patch import Patch
from smf_jax.taught.answers import ROWS, Answers, is_right
from smf_jax.taught.config import AskConfig
from smf_jax.taught.directory import TaughtDirectory
from smf_jax.taught.provenance import Reads, provenance

_LEAST = 0.005  # a share of a patch that is told
# Share of all read weight on rows of patches from which they are said to have taught the answer,
# and each patch's own part of all, from which it is named. On SmolLM2 with three tables each of 20
# taught questions had 0.30 or more, none of 216 others more than 0.14; of single patches the
# largest had 0.13 or more there and 0.08 at most here (docs/teach.md).
TAUGHT, PART = 0.25, 0.1


class Answer(NamedTuple):
    """What a taught model says to a question."""

    question: str
    said: str
    without: str | None  # what it says without its patches, if that was asked for
    expected: tuple[str, ...]  # accepted answers; none where none are known
    written: float  # share of the read weight that fell on rows that patches wrote
    patches: dict[str, float]  # of that, each patch's share, the largest first

    @property
    def taught_by(self) -> list[str]:
        """The patches that the answer was read from, most of all from the first."""
        if self.written < TAUGHT:
            return []
        return [name for name, share in self.patches.items() if self.written * share >= PART]

    @property
    def is_right(self) -> bool | None:
        """Whether it is an accepted answer, ``None`` where none are known."""
        return is_right(self.said, self.expected) if self.expected else None

    def to_json(self) -> dict[str, Any]:
        """Everything by name."""
        found = {"taught_by": self.taught_by, "right": self.is_right}
        return {**self._asdict(), "expected": list(self.expected), **found}


class TaughtModel:
    """A taught model in memory: its base, and its parameters with all patches."""

    def __init__(self, directory: TaughtDirectory) -> None:
        """Reads it, every leaf and every patch checked."""
        directory.require()
        self.record, self.base = directory.read(), directory.load_base()
        self.patches: list[Patch] = directory.load_patches(self.record)
        self.params: Params = directory.load_params(self.base, self.patches)
        self.answers = Answers(Scorer(self.base.model, ROWS), self.base.tokenizer)


def ask(config: AskConfig) -> list[Answer]:
    """Answers questions. A ValueError or a FileNotFoundError names the argument amiss."""
    if not config.arguments:
        raise ValueError('no DIR given; smf ask DIR "QUESTION", or smf ask DIR --file=FILE')
    if config.plain and config.chat:
        raise ValueError("--plain, --chat: two ways to put a question; leave one of them out")
    path, *texts = config.arguments
    directory = TaughtDirectory(path)
    directory.require()
    questions = [Question(text, ()) for text in texts]
    if config.file:
        questions += _in_file(config.file, Reader(**config.data.values()))
    if not questions:
        raise ValueError('no question given; smf ask DIR "QUESTION", or --file=FILE')
    model = TaughtModel(directory)
    prompts = _prompts(config, model.base, questions)
    positions = model.base.config.max_positions
    for question, ids in zip(questions, prompts, strict=True):
        if len(ids) + config.max_tokens > positions:
            raise ValueError(
                f"{question.text[:60]!r} takes {len(ids)} tokens and --max_tokens="
                f"{config.max_tokens}, more than the model's {positions}; shorten one of the two"
            )
    return answers_of(model, questions, prompts, config.max_tokens, config.without)


def _prompts(config: AskConfig, base: Base, questions: Sequence[Question]) -> list[list[int]]:
    if not config.chat:
        return prompts_of(base, [each.text for each in questions], config.plain)
    asked = [[{"role": "user", "content": each.text}] for each in questions]
    with blame_flag("--chat: "):
        return [list(base.tokenizer.encode_chat(messages)) for messages in asked]


def prompts_of(base: Base, texts: Sequence[str], plain: bool = False) -> list[list[int]]:
    """The prompts of questions, in a wording, or as they stand."""
    asked = texts if plain else [PROMPT.format(text) for text in texts]
    return [list(base.tokenizer.encode_prompt(text)) for text in asked]


def answers_of(
    model: TaughtModel,
    questions: Sequence[Question],
    prompts: Sequence[list[int]],
    steps: int,
    without: bool = False,
) -> list[Answer]:
    """The answers to prompts, each with what it was read from."""
    said = model.answers.to(model.params, prompts, steps)
    bare: Sequence[str | None] = [None] * len(prompts)
    if without:
        bare = model.answers.to(model.base.params, prompts, steps)
    reads, found = Reads(model.base.model), []
    for question, ids, text, other in zip(questions, prompts, said, bare, strict=True):
        # The tokens of the answer as it would be read on: those of its text.
        read = reads.of(model.params, [*ids, *model.base.tokenizer.encode(f" {text}")])
        told = provenance(read, model.patches) if model.patches else None
        shares = {} if told is None else dict(zip(_names(model), told.patches, strict=True))
        largest = sorted(shares.items(), key=lambda pair: -pair[1])
        named = {name: share for name, share in largest if share >= _LEAST}
        written = 0.0 if told is None else told.written
        found.append(Answer(question.text, text, other, question.answers, written, named))
    return found


def _names(model: TaughtModel) -> list[str]:
    return [entry.name for entry in model.record.patches]


def _in_file(source: str, reader: Reader) -> list[Question]:
    """The questions of a file: a line each, or records with their answers."""
    path: Path = existing(source, "file")
    if path.is_file() and file_format(path) == TEXT:
        lines = reader.whole_text(source, "file").splitlines()
        return [Question(line.strip(), ()) for line in lines if line.strip()]
    return list(reader.open_questions(source, "file"))


def answer_text(answer: Answer) -> str:
    """An answer for the terminal."""
    lines = [answer.question, f"  {answer.said or '(nothing)'}"]
    if answer.expected:
        lines[-1] += "" if answer.is_right else f"   (expected {answer.expected[0]})"
    if answer.without is not None:
        lines.append(f"  without patches: {answer.without or '(nothing)'}")
    patches = ", ".join(f"{name} {share:.0%}" for name, share in answer.patches.items())
    read = f"{answer.written:.1%} of the read weight on rows that patches wrote"
    lines.append(f"  taught by {', '.join(answer.taught_by) or 'no patch'}")
    lines.append(f"  {read}: {patches}" if patches else f"  {read}")
    return "\n".join(lines)
