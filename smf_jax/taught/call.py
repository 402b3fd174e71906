"""One call of `teach`, once all is made: its tasks, as far as there is time, and what was lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from smf_jax import interrupts
from smf_jax.bases.base import Base
from smf_jax.data.facts import Fact, Task
from smf_jax.evaluation.scorer import Scorer
from smf_jax.params import Params
from smf_jax.progress import progress_bar, say
from smf_jax.taught.answers import ROWS, Answers, answer_steps
from smf_jax.taught.checks import Checked
from smf_jax.taught.config import TeachConfig
from smf_jax.taught.directory import TaughtDirectory
from smf_jax.taught.lessons import facts_again, key_of, patch_name, without_left
from smf_jax.taught.record import Lesson, PatchEntry, Record, Said
from smf_jax.taught.report import lesson_line, mended_line, write_report
from smf_jax.taught.task_trainer import TaskTrainer

# Facts that are trained beside those that are taught once more, so that these do not undo others.
REHEARSED = 24


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


class Call:
    """What one call trains, asks and keeps."""

    def __init__(
        self,
        config: TeachConfig,
        clock: Clock,
        directory: TaughtDirectory,
        base: Base,
        tasks: Sequence[Task],
        earlier: Sequence[Fact],
        trainer: TaskTrainer,
    ) -> None:
        """Trains nothing yet."""
        self._training, self._clock, self._directory = config.training, clock, directory
        self._base, self._tasks, self._trainer = base, tasks, trainer
        self._answers = Answers(Scorer(base.model, ROWS), base.tokenizer)
        facts = [*earlier, *(fact for task in tasks for fact in task.facts)]
        answers = [fact.answers for fact in facts]
        self._steps = answer_steps(base.tokenizer, answers)
        self._measuring = 0.0  # seconds that what comes after the last task will take, about

    def run(self, record: Record, lesson: Lesson) -> Record:
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
        params = self._trainer.params
        record = self._asked_again(record, lesson.name, params)
        record, params = self._mended(record, lesson.name, slowest, params)
        after, spent = checked.of(self._answers, params), earlier + self._clock.seconds
        lesson = replace(record.lesson(lesson.name), after=after, seconds=spent)
        record = record.with_lesson(lesson)
        self._directory.write(record)
        write_report(self._directory, record)
        return record

    def _asked_before(self, lesson: Lesson) -> Lesson:
        """The lesson with what the model says before it."""
        told = self._about([fact for task in self._tasks for fact in task.facts])
        by_key = dict(zip([key_of(f) for t in self._tasks for f in t.facts], told, strict=True))
        facts = tuple(replace(fact, before=by_key[fact.key]) for fact in lesson.facts)
        return replace(lesson, facts=facts)

    def _asked_again(self, record: Record, name: str, params: Params) -> Record:
        """The record with what the model says now: of this lesson, and of all that it has learned.

        A later task may undo an earlier one.
        """
        asked = [*record.current().values(), *record.to_mend(name)]
        return record.hearing(asked, self._answers.again(params, asked))

    def _about(self, facts: Sequence[Fact]) -> list[tuple[Said, ...]]:
        return self._answers.about(self._trainer.params, facts, self._steps)

    def _task(self, record: Record, lesson: Lesson, task: int) -> tuple[Lesson, PatchEntry | None]:
        """Teaches one task and writes its patch; the record does not name it yet."""
        facts, told = self._tasks[task].facts, lesson.of_task(task)
        before = [all(said.right for said in fact.before) for fact in told]
        said = [fact.before for fact in told]
        missing = [fact for fact, right in zip(facts, before, strict=True) if not right]
        entry = None
        if missing:
            entry, said = self._trained(record, lesson, task, missing, (), facts)
        new = []
        for fact, was, each in zip(told, before, said, strict=True):
            right = all(one.right for one in each)
            status = ("known" if was else "learned") if right else "not learned"
            new.append(replace(fact, status=status, after=each))
        return lesson.with_task(task, new), entry

    def _mended(
        self, record: Record, name: str, seconds: float, params: Params
    ) -> tuple[Record, Params]:
        """Teaches once more what was not learned and what was undone, in a patch of its own.

        The patch stays where more facts are answered with it than without, of all that were taught.
        ``seconds`` is what it takes, about. Returns the model that comes of it too.
        """
        lesson, told = record.lesson(name), record.to_mend(name)
        if (
            not self._training.mend
            or lesson.left()
            or not told
            or not self._clock.has(seconds + self._measuring)
        ):
            return record, params
        # The latest first: this lesson's own, then those of the lessons before it.
        known = [fact for fact in reversed(record.current().values()) if fact.train and fact.before]
        missing, others = facts_again(told), facts_again(known[:REHEARSED])
        tasks = [lesson.tasks - 1, *(e.task for e in record.patches if e.lesson == name)]
        asked = (*missing, *others)
        entry, _ = self._trained(record, lesson, 1 + max(tasks), missing, others, asked)
        beside = tuple(fact.question for fact in known[:REHEARSED])
        entry = replace(entry, questions=tuple(f.question for f in told), beside=beside)
        new = replace(record, patches=(*record.patches, entry))
        new = self._asked_again(new, name, self._trainer.params)
        was, now = len(record.current()), len(new.current())
        say(mended_line(entry, was, now))
        if now <= was:
            self._directory.tidy(record)
            return record, params
        self._directory.write(new)
        return new, self._trainer.params

    def _trained(
        self,
        record: Record,
        lesson: Lesson,
        task: int,
        missing: Sequence[Fact],
        others: Sequence[Fact],
        asked: Sequence[Fact],
    ) -> tuple[PatchEntry, list[tuple[Said, ...]]]:
        """Trains what is missing beside others, and writes the patch.

        Returns its entry and what the model says in the end to those that are ``asked``.
        """
        interrupts.check()
        said: list[tuple[Said, ...]] = []
        start = begun = self._clock.seconds

        def unanswered() -> list[Fact]:
            nonlocal said, begun
            said = self._about(asked)
            spent, begun = self._clock.seconds - begun, self._clock.seconds
            if not self._clock.has(spent + self._measuring):
                return []  # there is no time for another round
            pairs = zip(asked, said, strict=True)
            return [fact for fact, each in pairs if not all(one.right for one in each)]

        rounds = max(1, self._training.steps // self._training.steps_per_round)
        name, number = patch_name(lesson, task), len(record.patches)
        taught = self._trainer.teach(name, number, missing, others, rounds, unanswered)
        kept = self._directory.save_patch(number, taught.patch)
        spent = self._clock.seconds - start
        about = (taught.patch.rows, lesson.name, task, taught.steps, spent)
        return PatchEntry(name, kept["file"], kept["digest"], *about), said
