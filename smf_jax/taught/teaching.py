"""Teaching a file of facts: a memory where there is none, then a patch for each task."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from smf_jax import interrupts
from smf_jax.bases.asked_base import AskedBase
from smf_jax.bases.base import Base, load_base, save_base
from smf_jax.bases.retrofit_config import RetrofitConfig
from smf_jax.bases.retrofitting import retrofit_base
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.format_rows import LEAST
from smf_jax.continual.grid import grid
from smf_jax.continual.inputs import Inputs, digest_inputs
from smf_jax.continual.plan import check_trials, measured_background
from smf_jax.continual.stream_data import StreamData, encode_stream
from smf_jax.continual.sweep import Tools, find_background
from smf_jax.data.facts import Fact, Task
from smf_jax.data.readers import Reader
from smf_jax.data.shares import share_of
from smf_jax.evaluation.asking import Asking
from smf_jax.evaluation.probe import ProbeContext, ProbeOptions
from smf_jax.evaluation.probes.known import KNOWN, KnownProbe
from smf_jax.evaluation.scorer import Scorer
from smf_jax.interop.gguf.package import PACKAGE
from smf_jax.paths import remove
from smf_jax.progress import progress_bar, say
from smf_jax.sparse.usage import Background
from smf_jax.taught.answers import Answers, answer_steps
from smf_jax.taught.checks import Checked
from smf_jax.taught.config import TeachConfig
from smf_jax.taught.directory import BASE, TaughtDirectory
from smf_jax.taught.directory import KNOWN as KNOWN_FILE
from smf_jax.taught.lessons import (
    blame_argument,
    find_lesson,
    key_of,
    patch_name,
    read_facts,
    tasks_of,
    without_left,
)
from smf_jax.taught.record import Lesson, PatchEntry, Record, Said
from smf_jax.taught.report import lesson_line, write_report
from smf_jax.taught.task_trainer import TaskTrainer

# Questions that are asked at once: as many are asked of a task as of a whole file.
ROWS = 16
_ASKED = "asked"  # what the base has answered so far, until the known questions are kept
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


@dataclass(frozen=True)
class _Making:
    """What a model is made of before its first lesson."""

    config: SweepConfig
    base: Base  # as it was named, or as it is kept
    data: StreamData  # of the lesson's tasks; with general text where no background is measured


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
        making = _read(config, reader, record, directory, tasks)
        directory.write(record)  # the directory is ours from here on
        directory.tidy(record)
        base, background = _make(config, reader, directory, making)
        with blame_argument("base", "MODEL"):
            measured = _of_kept_base(config, directory)
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
    return not model.startswith(PACKAGE) and TaughtDirectory(model).is_there


def _is_another(reader: Reader, model: str, record: Record) -> bool:
    return _digests(reader, model)["files"] != record.model["files"]


def _digests(reader: Reader, model: str) -> dict[str, Any]:
    with blame_argument("base", "MODEL"):
        found: Inputs = digest_inputs(reader, base=model)
    return dict(found.get("base", {"path": model, "files": {}}))


def _read(
    config: TeachConfig,
    reader: Reader,
    record: Record,
    directory: TaughtDirectory,
    tasks: Sequence[Task],
) -> _Making:
    """Reads and checks all that is needed; nothing is computed, nothing written."""
    if directory.has_background and directory.has_text:
        base, sweep = directory.load_base(), _of_kept_base(config, directory)
        return _Making(sweep, base, _encoded(sweep, base, _using(sweep, base, reader), tasks))
    with blame_argument("base", "MODEL"):
        base = load_base(record.model["path"], "base", config.dtype)
    if not config.texts.background:
        raise ValueError(
            "--background is empty: rows are chosen against general text; give a file of it"
        )
    sweep = config.sweep(base="MODEL", **_memory_of(config, base))
    using = _using(sweep, base, reader)
    return _Making(sweep, base, _with_formats(config, sweep, base, using, tasks))


def _memory_of(config: TeachConfig, base: Base) -> dict[str, Any]:
    """The settings of the retrofit; none of a base that has a memory."""
    if base.config.memory is None:
        layers = config.retrofit.layers or str(base.config.layers // 2)
        return {**config.retrofit.values(), "layers": layers}
    if config.retrofit != TeachConfig().retrofit:
        raise ValueError(
            f"--layers={config.retrofit.layers}, or another flag of the memory: MODEL has one in "
            f"layers {base.config.memory.layers}; leave these flags out"
        )
    return RetrofitConfig().values()


def _of_kept_base(config: TeachConfig, directory: TaughtDirectory) -> SweepConfig:
    """The settings of the engine for a base and a background that are made."""
    return config.sweep(
        **RetrofitConfig().values(),
        base=str(directory.path),
        background=directory.background_path(),
        background_questions="",
    )


def _using(config: SweepConfig, base: Base, reader: Reader) -> ProbeContext:
    options = ProbeOptions.of(config.probes)
    return ProbeContext(reader, base.tokenizer, base.config.max_positions, options)


def _encoded(
    config: SweepConfig,
    base: Base,
    using: ProbeContext,
    tasks: Sequence[Task],
    others: Sequence[Fact] = (),
) -> StreamData:
    """The tasks, encoded, and what goes with them; refuses what could not run."""
    with blame_argument("stream=world", "FACTS"):
        data = encode_stream(config, base, using, tasks, others)
    check_trials(config, grid(config.grid, config.own), base, data)
    return data


def _with_formats(
    config: TeachConfig,
    sweep: SweepConfig,
    base: Base,
    using: ProbeContext,
    tasks: Sequence[Task],
) -> StreamData:
    """The same with a background that holds other questions, where there are any."""
    told, probes = config.texts, ""
    if told.known:
        if "," in told.known:
            raise ValueError(f"--known={told.known}: a comma is in the name; copy the file")
        using.reader.open_questions(told.known, "known")  # so that errors name this flag
        probes = f"known=known:{told.known}"
    others, source, flag = _others(told.others, told.known, using.reader)
    changes = {"probes": probes, "background_questions": source}
    if not others:
        changes["background_questions"] = ""
    sweep = sweep.with_values(**changes)
    try:
        return _encoded(sweep, base, using, tasks, others)
    except ValueError as error:
        if not str(error).startswith("--background_formats="):
            raise
        raise ValueError(
            f"--{flag}={source}: none of {len(others)} questions asks something else than the "
            "facts, with another answer, and fits into their length; give others by --others"
        ) from None


def _others(others: str, known: str, reader: Reader) -> tuple[tuple[Fact, ...], str, str]:
    """Questions for the formats of the background, their file and its flag."""
    if others:
        found = reader.questions(others, "others")
        if len(found) < LEAST:
            raise ValueError(
                f"--others={others} holds {len(found)} questions, expected {LEAST} or more"
            )
        return found, others, "others"
    found = ()
    if known:
        asked = reader.questions(known, "known")
        found = tuple(f for f in asked if f.question and share_of(f.question.text) == "aside")
    if len(found) >= LEAST:
        return found, known, "known"
    say(
        "the background is text alone, and words that every question has will look rare: more "
        f"stays known with --others=FILE, {LEAST} other questions or more"
    )
    return (), "", ""


def _make(
    config: TeachConfig, reader: Reader, directory: TaughtDirectory, making: _Making
) -> tuple[Base, Background]:
    """The base with its memory and background, and the known questions; made where they are not."""
    sweep, base, general = making.config, making.base, making.data.general
    say(f"model: {base.origin}, {base.size()}")
    if config.texts.known:
        _keep_known(config, reader, directory, making)
    if not directory.has_base:
        if sweep.retrofit.is_wanted:
            windows = None if general is None else general.rows
            rows = sweep.background.background_batch_size
            base = retrofit_base(sweep.retrofit, base, windows, 0, rows)
        save_base(directory.path / BASE, base)
    base = directory.load_base()
    if not directory.has_text and making.data.texts:
        name, windows = next(iter(making.data.texts.items()))
        directory.save_text(windows, name)
    if directory.has_background:
        path = directory.background_path()
        background = measured_background(path, base.tokenizer_fingerprint())
        assert background is not None
        return base, background
    background = find_background(sweep, base, making.data, None, Tools())
    directory.save_background(background)
    return base, background


def _keep_known(
    config: TeachConfig, reader: Reader, directory: TaughtDirectory, making: _Making
) -> None:
    """Asks the model before its first lesson which of the known questions it answers."""
    base, source = making.base, config.texts.known
    if (directory.path / KNOWN_FILE).is_file():
        say(f"--known={source}: the questions that the model answers are kept from before")
        return
    cache = directory.path / _ASKED
    asking: Asking = AskedBase(base, None, cache, making.config.probes.eval_batch_size)
    taught = frozenset(key_of(fact)[0] for task in making.data.tasks for fact in task.facts)
    using = _using(making.config, base, reader)._replace(asking=asking, taught=taught)
    with blame_argument("probes", "--known"):
        probe = KNOWN.read(source, using)
    assert isinstance(probe, KnownProbe)
    directory.save_known(probe, source)
    remove(cache)


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
        measuring, slowest = self._clock.seconds - began, 0.0
        left = lesson.left()
        with progress_bar(len(left), "teach", "task") as progress:
            for done, task in enumerate(left):
                if not self._clock.has(slowest + measuring):
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
        after = checked.of(self._answers, self._trainer.params)
        lesson = replace(lesson, after=after, seconds=earlier + self._clock.seconds)
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

    def _about(self, facts: Sequence[Fact]) -> list[tuple[Said, ...]]:
        return self._answers.about(self._trainer.params, facts, self._steps)

    def _task(self, record: Record, lesson: Lesson, task: int) -> tuple[Lesson, PatchEntry | None]:
        """Teaches one task and writes its patch; the record does not name it yet."""
        interrupts.check()
        facts, told = self._tasks[task].facts, lesson.of_task(task)
        before = [all(said.right for said in fact.before) for fact in told]
        said = [fact.before for fact in told]
        missing = [fact for fact, right in zip(facts, before, strict=True) if not right]

        def unanswered() -> list[Fact]:
            nonlocal said
            said = self._about(facts)
            if not self._clock.has(0):
                return []
            pairs = zip(facts, said, strict=True)
            return [fact for fact, each in pairs if not all(one.right for one in each)]

        entry, start = None, self._clock.seconds
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
