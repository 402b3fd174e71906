"""Teaching a file of facts: a memory where there is none, then a patch for each task."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from smf_jax.bases.base import Base
from smf_jax.continual.inputs import Inputs, digest_inputs
from smf_jax.continual.stream_data import chunked
from smf_jax.data.batching import Batch
from smf_jax.data.facts import Fact, Task
from smf_jax.data.readers import Reader
from smf_jax.errors import blame_flag
from smf_jax.evaluation.scorer import Scorer
from smf_jax.interop.gguf.package import PACKAGE
from smf_jax.paths import as_path, is_remote
from smf_jax.progress import say
from smf_jax.sparse.patch import Patch
from smf_jax.sparse.usage import Background
from smf_jax.taught.answers import ROWS, Answers
from smf_jax.taught.call import Call, Clock
from smf_jax.taught.capacity import room_for, room_lines
from smf_jax.taught.chat_wordings import in_chats, require_chats
from smf_jax.taught.config import TeachConfig
from smf_jax.taught.directory import RECORD, TaughtDirectory
from smf_jax.taught.fact_files import kind_of, read_facts, read_wordings
from smf_jax.taught.lessons import (
    as_trained,
    blame_argument,
    earlier_facts,
    facts_again,
    find_lesson,
    tasks_of,
)
from smf_jax.taught.making import (
    Making,
    make,
    of_kept_base,
    read_base,
    read_making,
    with_layers,
    with_rows,
)
from smf_jax.taught.model_wordings import MODEL, in_own_words
from smf_jax.taught.record import Lesson, Record
from smf_jax.taught.task_trainer import TaskTrainer

# Settings that may differ from lesson to lesson.
_OF_LESSON = ("facts_per_task", "steps", "steps_per_round", "lr", "slots", "batch_size", "seed")
_OF_LESSON += ("mend",)


class Taught(NamedTuple):
    """What a call has come to."""

    directory: TaughtDirectory
    record: Record
    lesson: Lesson | None  # ``None`` if the model knew every fact by its earlier lessons


def teach(config: TeachConfig, now: Callable[[], float] = time.monotonic) -> Taught:
    """Teaches the facts of a file to a model, or to one that was taught before.

    What is done is kept task by task: the same call again goes on where one was stopped. Raises
    ValueError, FileNotFoundError or FileExistsError naming the argument that does not fit, before
    anything is computed or written.
    """
    clock = Clock(config.training.minutes, now)
    model, source, directory = _arguments(config)
    with directory.held():
        reader = Reader(**config.data.values())
        facts = _facts(config, reader, source)
        record = _record(config, reader, model, directory)
        config = config.with_values(**record.making)
        base = read_base(config, record, directory)
        config = with_layers(config, base, directory)
        if config.facts.chat:
            with blame_flag("--chat: "):
                require_chats(base.tokenizer)
        if config.facts.chat and _are_questions(config, source):
            facts = in_chats(facts, base.tokenizer)
        lesson = find_lesson(record, facts, source, config.training.facts_per_task)
        if lesson is None:
            return Taught(directory, record, None)
        config = with_rows(_as_begun(config, lesson), base)
        lesson = replace(lesson, settings={n: config.values()[n] for n in _OF_LESSON})
        tasks = tasks_of(lesson, facts)
        earlier = facts_again(earlier_facts(record, lesson))
        others = (Task("earlier", earlier),) if earlier else ()
        making = read_making(config, reader, base, directory, (*tasks, *others))
        if config.facts.wordings == MODEL:
            # All is checked before the model is asked, and encoded anew with what it says.
            tasks = _in_own_words(tasks, base)
            making = read_making(config, reader, base, directory, (*tasks, *others))
        lesson = as_trained(lesson, tasks)
        directory.write(record)  # the directory is ours from here on
        directory.tidy(record)
        base, background = make(config, reader, directory, making)
        with blame_argument("base", "MODEL"):
            measured = of_kept_base(config, directory)
        patches = directory.load_patches(record)
        if not any(entry.lesson == lesson.name for entry in record.patches):
            lesson = _with_room(lesson, making, base, background, patches)
        trainer = TaskTrainer(measured, base, making.data, background, patches)
        call = Call(config, clock, directory, base, tasks, earlier, trainer)
        record = call.run(record, lesson)
        return Taught(directory, record, record.lesson(lesson.name))


def _facts(config: TeachConfig, reader: Reader, source: str) -> tuple[Fact, ...]:
    told = config.facts
    if told.wordings == MODEL and not _are_questions(config, source):
        raise ValueError(
            f"--wordings={MODEL}: the model puts questions into other words, and FACTS={source} "
            "are none; leave the flag out"
        )
    named = told.wordings not in ("", MODEL)
    formats = read_wordings(reader, told.wordings) if named else ()
    return read_facts(reader, source, told.facts_as, formats)


def _are_questions(config: TeachConfig, source: str) -> bool:
    with blame_argument("facts", "FACTS"):
        return kind_of(source, config.facts.facts_as) == "questions"


def _in_own_words(tasks: Sequence[Task], base: Base) -> tuple[Task, ...]:
    answers = Answers(Scorer(base.model, ROWS), base.tokenizer)
    positions = base.config.max_positions
    return in_own_words(tasks, base.tokenizer, positions, partial(answers.to, base.params))


def _as_begun(config: TeachConfig, lesson: Lesson) -> TeachConfig:
    """What is not told is as it was when a lesson began that was cut short."""
    if lesson.after is not None and not lesson.left():
        return config
    told, usual = config.values(), TeachConfig().values()
    begun = {name: lesson.settings.get(name) for name in _OF_LESSON if told[name] == usual[name]}
    return config.with_values(**{name: old for name, old in begun.items() if old is not None})


def _with_room(
    lesson: Lesson, making: Making, base: Base, background: Background, patches: Sequence[Patch]
) -> Lesson:
    """The lesson with the room that earlier patches leave it, which is told before it is taught."""
    if not patches or lesson.room is not None:
        return lesson
    rows = making.config.training.batch_size
    batches = [
        Batch(*(field[number] for field in chunks))
        for examples in making.data.examples[: lesson.tasks]
        for chunks in (chunked(examples, rows),)
        for number in range(len(chunks.tokens))
    ]
    budget = int(making.config.grid.slots)
    room = room_for(base.model, base.params, background, patches, batches, budget=budget)
    say("\n".join(room_lines(room)))
    return replace(lesson, room=room._asdict())


def _arguments(config: TeachConfig) -> tuple[str, str, TaughtDirectory]:
    """The model that is named, the file of facts, and the directory that is taught."""
    if len(config.arguments) != 2:
        raise ValueError(
            f"{len(config.arguments)} arguments given, expected MODEL and FACTS: smf teach MODEL "
            "FACTS --out=DIR, or smf teach DIR FACTS on top"
        )
    model, source = config.arguments
    if _is_taught(model):
        taught = TaughtDirectory(model)
        if config.out and TaughtDirectory(config.out).path.resolve() != taught.path.resolve():
            raise ValueError(
                f"--out={config.out}: {model} is a taught model, which is taught where it is; "
                "leave the flag out, or copy the directory and teach the copy"
            )
        return model, source, taught
    if not config.out:
        raise ValueError("--out is empty; name the directory to make of MODEL")
    directory = TaughtDirectory(config.out, "out")
    if not directory.is_there:
        directory.require_free("out")
    return model, source, directory


def _record(config: TeachConfig, reader: Reader, model: str, directory: TaughtDirectory) -> Record:
    """The record of the directory, or a new one; refuses settings that it was not made with."""
    told, usual = config.making(), TeachConfig().making()
    if not directory.is_there:
        return Record(_digests(reader, model), told)
    record = directory.read()
    if config.out and not _is_taught(model) and _is_another(reader, model, record):
        raise FileExistsError(
            f"--out={directory.path} was made of {record.model['path']}, and MODEL={model} is "
            "another model; choose another directory"
        )
    others = {
        name: value
        for name, value in told.items()
        if value != record.making.get(name) and value != usual[name]
    }
    if others:
        flags = ", ".join(f"--{name}={value}" for name, value in sorted(others.items()))
        raise ValueError(
            f"{flags}: {directory.path} is made without; leave it out, or give another --out"
        )
    return record


def _is_taught(model: str) -> bool:
    """Whether a model is a directory that `teach` has made."""
    if model.startswith(PACKAGE) or is_remote(model):
        return False
    return (as_path(model) / RECORD).is_file()


def _is_another(reader: Reader, model: str, record: Record) -> bool:
    return _digests(reader, model)["files"] != record.model["files"]


def _digests(reader: Reader, model: str) -> dict[str, Any]:
    with blame_argument("base", "MODEL"):
        found: Inputs = digest_inputs(reader, base=model)
    return dict(found.get("base", {"path": model, "files": {}}))
