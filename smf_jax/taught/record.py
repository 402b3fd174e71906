"""What is kept of a taught model beside its weights: lessons, their facts, their patches."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, count
from typing import Any, Literal, NamedTuple

from smf_jax.data.shares import question_key

FORMAT = 1
_LISTS = ("questions", "beside")
# Of a fact: left, it was not taught yet; known, it was answered before; learned, or not, by the
# steps of its task; lost, it was known or learned and later patches undid that; forgotten, its
# patch was taken back.
Status = Literal["left", "known", "learned", "not learned", "lost", "forgotten"]


class Said(NamedTuple):
    """What a model said to a fact's question in one wording that the fact is not trained in."""

    asked: str  # the prompt
    said: str
    right: bool  # whether that is one of the accepted answers


@dataclass(frozen=True)
class TaughtFact:
    """A question with its answers, the first of which is taught, and what has come of it."""

    question: str
    answers: tuple[str, ...]
    task: int  # of its lesson, from 0
    status: Status = "left"
    train: tuple[str, ...] = ()  # the prompts that it is trained in
    before: tuple[Said, ...] = ()  # by the model as it was before the lesson
    after: tuple[Said, ...] = ()  # by the model when it was last asked

    @property
    def key(self) -> tuple[str, str]:
        """What it is known by: the words of its question, and of the answer that is taught."""
        return question_key(self.question), question_key(self.answers[0])

    @property
    def is_done(self) -> bool:
        """Whether the model knows it."""
        return self.status in ("known", "learned")

    def heard(self, said: tuple[Said, ...]) -> TaughtFact:
        """The same after it was asked again, once it has been taught."""
        if not all(each.right for each in said):
            status: Status = "lost" if self.is_done else self.status
        else:  # what was answered before the lesson no patch has taught
            was_known = bool(self.before) and all(each.right for each in self.before)
            status = "known" if was_known else "learned"
        return replace(self, status=status, after=said)


class Checks(NamedTuple):
    """What was measured beside the facts; ``None`` where there is nothing to measure."""

    known: int | None = None  # answers kept, of the questions that the untouched model answers
    of: int = 0  # how many these are
    text_loss: float | None = None  # mean loss on general text, nats a token


@dataclass(frozen=True)
class Lesson:
    """A file of facts and what has come of it."""

    name: str
    file: str  # as it was named
    facts: tuple[TaughtFact, ...]
    settings: Mapping[str, Any]  # of the training, by the names of flags
    before: Checks = field(default_factory=Checks)
    after: Checks | None = None  # ``None`` while it goes on
    seconds: float = 0.0  # of all calls that taught it
    room: Mapping[str, Any] | None = None  # what it would write over; ``None`` for the first

    @property
    def tasks(self) -> int:
        """How many tasks its facts are dealt into."""
        return 1 + max((fact.task for fact in self.facts), default=-1)

    def of_task(self, task: int) -> tuple[TaughtFact, ...]:
        """The facts of one task."""
        return tuple(fact for fact in self.facts if fact.task == task)

    def left(self) -> tuple[int, ...]:
        """The tasks that are yet to be taught."""
        return tuple(sorted({fact.task for fact in self.facts if fact.status == "left"}))

    def with_task(self, task: int, facts: Iterable[TaughtFact]) -> Lesson:
        """The lesson with what has come of a task, whose facts are told in their order."""
        told = iter(facts)
        return replace(self, facts=tuple(next(told) if f.task == task else f for f in self.facts))


@dataclass(frozen=True)
class PatchEntry:
    """A patch of the directory."""

    name: str
    file: str  # within the directory
    digest: str  # of its arrays
    rows: int
    lesson: str
    task: int  # of the lesson; of one that teaches once more the number behind the last
    steps: int
    seconds: float
    questions: tuple[str, ...] = ()  # of the facts that it taught, where not those of its task
    beside: tuple[str, ...] = ()  # of facts that were trained beside these, not to be undone


@dataclass(frozen=True)
class Record:
    """Everything that is kept of a taught model beside its weights."""

    model: Mapping[str, Any]  # the path that was named, and digests of its files
    making: Mapping[str, Any]  # the settings that the base was made with, by the names of flags
    lessons: tuple[Lesson, ...] = ()
    patches: tuple[PatchEntry, ...] = ()

    def lesson(self, name: str) -> Lesson:
        """The lesson of a name."""
        return next(lesson for lesson in self.lessons if lesson.name == name)

    def places(self, name: str) -> tuple[int, ...]:
        """The places of the patch of a name, or of those of the lesson of that name; or none."""
        names = [entry.name for entry in self.patches]
        if name not in names:
            names = [entry.lesson for entry in self.patches]
        return tuple(place for place, each in enumerate(names) if each == name)

    def facts_of(self, entry: PatchEntry) -> tuple[TaughtFact, ...]:
        """The facts that a patch taught: those of its task, or the ones that it names."""
        if not entry.questions:
            return self.lesson(entry.lesson).of_task(entry.task)
        every = (fact for lesson in self.lessons for fact in lesson.facts)
        return tuple(fact for fact in every if fact.question in entry.questions)

    def free_name(self, name: str) -> str:
        """The name, or one like it, for a new lesson: neither it nor its patches meet others."""
        taken = {each.name for each in (*self.lessons, *self.patches)}
        return _first_free(name, lambda new: any(_meet(new, each) for each in taken))

    def free_patch_name(self, name: str) -> str:
        """The name, or one like it, for a new patch."""
        taken = {entry.name for entry in self.patches}
        return _first_free(name, taken.__contains__)

    def with_lesson(self, lesson: Lesson) -> Record:
        """With a lesson in place of the one of its name, or after all others."""
        names = [each.name for each in self.lessons]
        if lesson.name not in names:
            return replace(self, lessons=(*self.lessons, lesson))
        new = (lesson if each.name == lesson.name else each for each in self.lessons)
        return replace(self, lessons=tuple(new))

    def current(self) -> dict[str, TaughtFact]:
        """The facts that the model knows by its lessons, by question: of two answers the later."""
        facts = (fact for lesson in self.lessons for fact in lesson.facts if fact.is_done)
        return {fact.key[0]: fact for fact in facts}

    def hearing(self, asked: Iterable[TaughtFact], said: Iterable[tuple[Said, ...]]) -> Record:
        """With what the model says now to facts of this very record."""
        heard = {id(fact): fact.heard(each) for fact, each in zip(asked, said, strict=True)}
        record = self
        for lesson in self.lessons:
            facts = tuple(heard.get(id(fact), fact) for fact in lesson.facts)
            record = record.with_lesson(replace(lesson, facts=facts))
        return record

    def to_mend(self, name: str) -> tuple[TaughtFact, ...]:
        """What a lesson did not teach, and what it undid: the facts to be taught once more."""
        known = self.current()
        found = {
            fact.key[0]: fact
            for lesson in self.lessons
            for fact in lesson.facts
            if fact.status == "lost" or (fact.status == "not learned" and lesson.name == name)
        }
        return tuple(fact for key, fact in found.items() if key not in known and fact.train)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {"kind": "taught model", "format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], place: str) -> Record:
        """Reads what `to_json` gave; a ValueError, after ``place``, if it is something else."""
        if (values.get("kind"), values.get("format")) != ("taught model", FORMAT):
            raise ValueError(
                f"{place}: kind={values.get('kind')!r}, format={values.get('format')!r}, expected "
                f"a taught model of format {FORMAT}; use the version of smf_jax that wrote it"
            )
        try:
            lessons = tuple(_lesson(each) for each in values["lessons"])
            patches = tuple(
                PatchEntry(**{**each, **{name: tuple(each.get(name, ())) for name in _LISTS}})
                for each in values["patches"]
            )
            return cls(values["model"], values["making"], lessons, patches)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{place}: not what was written ({error}); restore a copy") from None


def _meet(name: str, other: str) -> bool:
    """Whether two names are one, or one is as those of the other's patches are."""
    of_patch = (re.fullmatch(rf"{re.escape(a)}_\d+", b) for a, b in ((name, other), (other, name)))
    return name == other or any(of_patch)


def _first_free(name: str, is_taken: Callable[[str], bool]) -> str:
    numbered = (f"{name}-{number}" for number in count(2))
    return next(each for each in chain([name], numbered) if not is_taken(each))


def _lesson(values: Mapping[str, Any]) -> Lesson:
    facts = tuple(
        TaughtFact(
            **{
                **each,
                "answers": tuple(each["answers"]),
                "train": tuple(each.get("train", ())),
                "before": tuple(Said(*said) for said in each["before"]),
                "after": tuple(Said(*said) for said in each["after"]),
            }
        )
        for each in values["facts"]
    )
    after = values["after"]
    told = {"before": Checks(*values["before"]), "after": None if after is None else Checks(*after)}
    return Lesson(**{**values, "facts": facts, **told})
