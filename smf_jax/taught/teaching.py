"""Teaching a file of facts: a memory where there is none, then a patch for each task."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from smf_jax import interrupts
from smf_jax.bases.base import Base
from smf_jax.continual.inputs import Inputs, digest_inputs
from smf_jax.data.facts import Fact, Task
from smf_jax.data.readers import Reader
from smf_jax.evaluation.scorer import Scorer
from smf_jax.interop.gguf.package import PACKAGE
from smf_jax.paths import as_path, is_remote
from smf_jax.progress import progress_bar, say
from smf_jax.taught.answers import Answers, answer_steps
from smf_jax.taught.checks import Checked
from smf_jax.taught.config import TeachConfig
from smf_jax.taught.directory import RECORD, TaughtDirectory
from smf_jax.taught.lessons import (
    blame_argument,
    find_lesson,
    key_of,
    patch_name,
    read_facts,
    tasks_of,
    without_left,
)
from smf_jax.taught.making import make, of_kept_base, read_making
from smf_jax.taught.record import Lesson, PatchEntry, Record, Said
from smf_jax.taught.report import lesson_line, write_report
from smf_jax.taught.task_trainer import TaskTrainer

# Questions that are asked at once: as many are asked of a task as of a whole file.
ROWS = 16
# Settings that may differ from lesson to lesson.
_OF_LESSON = ("facts_per_task", "steps", "steps_per_round", "lr", "slots", "batch_size", "seed")


class Taught(NamedTuple):
    """What a call has come to."""

    directory: TaughtDirectory
    record: Record
    lesson: Lesson | None  # ``None`` if the model knew every fact by its earlier lessons


class Clock:
    """How long a call has taken, and whether there is time for more."""

    def __init__(self, minutes: float, now: Callable[[], float] = time.monotonic) -> None:
        """Starts; without a limit for 0 ``minutes``."""
        self._now, self._start = now, now()
        self._limit = 60 * minutes or float("inf")

    @property
    def seconds(self) -> float:
        """Since the start."""
        return self._now() - self._start

    def has(self, seconds: float) -> bool:
        """Whether so many seconds are left."""
        return self.seconds + seconds < self._limit


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
        facts = read_facts(reader, source)
        record = _record(config, reader, model, directory)
        config = config.with_values(**record.making)
        lesson = find_lesson(record, facts, source, config.training.facts_per_task)
        if lesson is None:
            return Taught(directory, record, None)
        lesson = replace(lesson, settings={n: config.values()[n] for n in _OF_LESSON})
        tasks = tasks_of(lesson, facts)
        making = read_making(config, reader, record, directory, tasks)
        directory.write(record)  # the directory is ours from here on
        directory.tidy(record)
        base, background = make(config, reader, directory, making)
        with blame_argument("base", "MODEL"):
            measured = of_kept_base(config, directory)
        data = making.data
        trainer = TaskTrainer(measured, base, data, background, directory.load_patches(record))
        call = _Call(config, clock, directory, base, tasks, trainer)
        return call.run(record, lesson)


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


class _Call:
    """One call of `teach`, once all is made."""

    def __init__(
        self,
        config: TeachConfig,
        clock: Clock,
        directory: TaughtDirectory,
        base: Base,
        tasks: Sequence[Task],
        trainer: TaskTrainer,
    ) -> None:
        self._training, self._clock, self._directory = config.training, clock, directory
        self._base, self._tasks, self._trainer = base, tasks, trainer
        self._answers = Answers(Scorer(base.model, ROWS), base.tokenizer)
        answers = [fact.answers for task in tasks for fact in task.facts]
        self._steps = answer_steps(base.tokenizer, answers)
        self._measuring = 0.0  # seconds that what comes after the last task will take, about

    def run(self, record: Record, lesson: Lesson) -> Taught:
        """Teaches the tasks that are left, as far as there is time, and keeps each of them."""
        earlier, began = lesson.seconds, self._clock.seconds
        record = without_left(record, lesson).with_lesson(lesson)
        checked = Checked(self._directory, self._base, record)
        if not any(fact.before for fact in lesson.facts):
            lesson = self._asked_before(lesson)
            lesson = replace(lesson, before=checked.of(self._answers, self._trainer.params))
            record = record.with_lesson(lesson)
            self._directory.write(record)
        self._measuring, slowest = self._clock.seconds - began, 0.0
        left = lesson.left()
        with progress_bar(len(left), "teach", "task") as progress:
            for done, task in enumerate(left):
                if not self._clock.has(slowest + self._measuring):
                    break
                start = self._clock.seconds
                lesson, entry = self._task(record, lesson, task)
                slowest = max(slowest, self._clock.seconds - start)
                lesson = replace(lesson, seconds=earlier + self._clock.seconds)
                record = record.with_lesson(lesson)
                if entry is not None:
                    record = replace(record, patches=(*record.patches, entry))
                self._directory.write(record)
                write_report(self._directory, record)
                say(lesson_line(lesson, task, entry))
                progress(done + 1)
        record = self._asked_again(record, lesson.name)
        after = checked.of(self._answers, self._trainer.params)
        spent = earlier + self._clock.seconds
        lesson = replace(record.lesson(lesson.name), after=after, seconds=spent)
        record = record.with_lesson(lesson)
        self._directory.write(record)
        write_report(self._directory, record)
        return Taught(self._directory, record, lesson)

    def _asked_before(self, lesson: Lesson) -> Lesson:
        """The lesson with what the model says before it."""
        told = self._about([fact for task in self._tasks for fact in task.facts])
        by_key = dict(zip([key_of(f) for t in self._tasks for f in t.facts], told, strict=True))
        facts = tuple(replace(fact, before=by_key[fact.key]) for fact in lesson.facts)
        return replace(lesson, facts=facts)

    def _asked_again(self, record: Record, name: str) -> Record:
        """The record with what the model says now: of this lesson, and of all that it has learned.

        A later task may undo an earlier one.
        """
        current = record.current()
        for lesson in record.lessons:
            asked = [
                fact
                for fact in lesson.facts
                if current.get(fact.key[0]) is fact
                or (lesson.name == name and fact.status == "not learned")
            ]
            said = self._answers.again(self._trainer.params, asked)
            heard = {f.key: f.heard(each) for f, each in zip(asked, said, strict=True)}
            facts = tuple(heard.get(fact.key, fact) for fact in lesson.facts)
            record = record.with_lesson(replace(lesson, facts=facts))
        return record

    def _about(self, facts: Sequence[Fact]) -> list[tuple[Said, ...]]:
        return self._answers.about(self._trainer.params, facts, self._steps)

    def _task(self, record: Record, lesson: Lesson, task: int) -> tuple[Lesson, PatchEntry | None]:
        """Teaches one task and writes its patch; the record does not name it yet."""
        interrupts.check()
        facts, told = self._tasks[task].facts, lesson.of_task(task)
        before = [all(said.right for said in fact.before) for fact in told]
        said = [fact.before for fact in told]
        missing = [fact for fact, right in zip(facts, before, strict=True) if not right]

        entry = None
        start = begun = self._clock.seconds

        def unanswered() -> list[Fact]:
            nonlocal said, begun
            said = self._about(facts)
            spent, begun = self._clock.seconds - begun, self._clock.seconds
            if not self._clock.has(spent + self._measuring):
                return []  # there is no time for another round
            pairs = zip(facts, said, strict=True)
            return [fact for fact, each in pairs if not all(one.right for one in each)]

        if missing:
            rounds = max(1, self._training.steps // self._training.steps_per_round)
            name = patch_name(lesson, task)
            taught = self._trainer.teach(name, len(record.patches), missing, rounds, unanswered)
            kept = self._directory.save_patch(len(record.patches), taught.patch)
            spent = self._clock.seconds - start
            about = (taught.patch.rows, lesson.name, task, taught.steps, spent)
            entry = PatchEntry(name, kept["file"], kept["digest"], *about)
        new = []
        for fact, was, each in zip(told, before, said, strict=True):
            right = all(one.right for one in each)
            status = ("known" if was else "learned") if right else "not learned"
            new.append(replace(fact, status=status, after=each))
        return lesson.with_task(task, new), entry
