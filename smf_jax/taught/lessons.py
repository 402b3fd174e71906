"""Reading a file of facts and dealing them into the tasks of a lesson; nothing is computed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from smf_jax.continual.stream_tasks import question_of
from smf_jax.data.facts import Fact, Paraphrase, Question, Task
from smf_jax.data.shares import question_key
from smf_jax.paths import as_path
from smf_jax.taught.record import Lesson, Record, TaughtFact


@contextmanager
def blame_argument(flag: str, word: str) -> Iterator[None]:
    """Names an argument by its ``word`` in errors of readers that know it as a flag."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        told = str(error).replace(f"--{flag}", word)
        raise (FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError)(
            told
        ) from error


def key_of(fact: Fact) -> tuple[str, str]:
    """What a fact is known by, as `TaughtFact.key`."""
    return question_key(question_of(fact).text), question_key(fact.answers[0])


def worded(prompt: str, answer: str) -> Paraphrase:
    """One way to say a fact; a space divides the answer from a prompt that does not end in one."""
    return Paraphrase(prompt, answer if prompt[-1:].isspace() else f" {answer}")


def find_lesson(
    record: Record, facts: Sequence[Fact], source: str, facts_per_task: int
) -> Lesson | None:
    """The lesson to go on with, or a new one of the facts that the model was not taught.

    ``None`` if it knows all of them. A lesson that stopped goes on if it is to teach all that is
    missing; what it has taught and was then forgotten it does not teach again.
    """
    wanted = {key_of(fact): fact for fact in facts}
    known = {fact.key for fact in record.current().values()}
    for lesson in reversed(record.lessons):
        keys = {fact.key for fact in lesson.facts}
        keys -= {fact.key for fact in lesson.facts if fact.status == "forgotten"}
        # The last one may have been stopped when it was taught, and nothing was asked yet.
        goes_on = lesson.left() or (lesson.after is None and lesson is record.lessons[-1])
        if goes_on and keys and keys <= wanted.keys() and wanted.keys() - keys <= known:
            return lesson
    missing = [fact for key, fact in wanted.items() if key not in known]
    if not missing:
        return None
    told = [
        TaughtFact(
            question_of(fact).text,
            fact.answers,
            number // facts_per_task,
        )
        for number, fact in enumerate(missing)
    ]
    return Lesson(_name(record, source), source, tuple(told), {})


def without_left(record: Record, lesson: Lesson) -> Record:
    """A record whose other lessons leave nothing that this lesson teaches."""
    keys = {fact.key for fact in lesson.facts}
    for other in record.lessons:
        kept = tuple(f for f in other.facts if f.status != "left" or f.key not in keys)
        if other.name != lesson.name and len(kept) < len(other.facts):
            record = record.with_lesson(replace(other, facts=kept))
    return record


def tasks_of(lesson: Lesson, facts: Sequence[Fact]) -> tuple[Task, ...]:
    """The facts of a lesson, as they are trained, in its tasks."""
    by_key = {key_of(fact): fact for fact in facts}
    return tuple(
        Task(patch_name(lesson, task), tuple(by_key[f.key] for f in lesson.of_task(task)))
        for task in range(lesson.tasks)
    )


def as_trained(lesson: Lesson, tasks: Sequence[Task]) -> Lesson:
    """The lesson with the prompts that the facts of its tasks are trained in."""
    by_key = {key_of(fact): fact for task in tasks for fact in task.facts}
    facts = (
        replace(fact, train=tuple(each.prompt for each in by_key[fact.key].train))
        for fact in lesson.facts
    )
    return replace(lesson, facts=tuple(facts))


def facts_again(told: Sequence[TaughtFact]) -> tuple[Fact, ...]:
    """Facts of a record, as they were trained and asked."""
    return tuple(
        Fact(
            name=fact.question,
            relation="",
            train=tuple(worded(prompt, fact.answers[0]) for prompt in fact.train),
            held_out=tuple(worded(said.asked, fact.answers[0]) for said in fact.before),
            answers=fact.answers,
            question=Question(fact.question, fact.answers),
        )
        for fact in told
    )


def earlier_facts(record: Record, lesson: Lesson) -> tuple[TaughtFact, ...]:
    """The facts of other lessons that the model knows, or has lost, and can be taught again."""
    known = {fact.key: fact for fact in record.current().values()}
    known |= {fact.key: fact for fact in record.to_mend(lesson.name)}
    own = {fact.key[0] for fact in lesson.facts}
    return tuple(f for f in known.values() if f.train and f.before and f.key[0] not in own)


def patch_name(lesson: Lesson, task: int) -> str:
    """The name of a task's patch."""
    return f"{lesson.name}_{task + 1:02d}"


def _name(record: Record, source: str) -> str:
    """A name for a new lesson, by its file."""
    stem = as_path(source).name.partition(".")[0]
    stem = re.sub(r"[^\w-]+", "-", stem).strip("-")[:32] or "facts"
    return record.free_name(stem)
