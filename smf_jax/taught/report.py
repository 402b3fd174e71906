"""What came of the lessons of a model, for people (report.md) and programs (report.json)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from smf_jax.taught.directory import TaughtDirectory
from smf_jax.taught.record import Checks, Lesson, PatchEntry, Record, Said, TaughtFact

REPORT, REPORT_JSON = "report.md", "report.json"


def write_report(directory: TaughtDirectory, record: Record) -> None:
    """Writes both reports anew."""
    told = json.dumps(report(record), indent=2, ensure_ascii=False)
    directory.write_file(REPORT_JSON, told + "\n")
    directory.write_file(REPORT, report_text(record, str(directory.path)))


def report(record: Record) -> dict[str, Any]:
    """Everything as JSON."""
    return {
        "model": record.model["path"],
        "lessons": [_told(lesson, record) for lesson in record.lessons],
        "patches": [vars(entry) for entry in record.patches],
    }


def _told(lesson: Lesson, record: Record) -> dict[str, Any]:
    return {
        "name": lesson.name,
        "file": lesson.file,
        "settings": dict(lesson.settings),
        "seconds": lesson.seconds,
        "before": lesson.before._asdict(),
        "after": None if lesson.after is None else lesson.after._asdict(),
        "room": None if lesson.room is None else dict(lesson.room),
        "patches": [entry.name for entry in record.patches if entry.lesson == lesson.name],
        "facts": [
            {
                "asked": fact.question,
                "expected": list(fact.answers),
                "status": fact.status,
                "task": fact.task,
                "said_before": [said._asdict() for said in fact.before],
                "said_after": [said._asdict() for said in fact.after],
            }
            for fact in lesson.facts
        ],
    }


def counts(lesson: Lesson) -> str:
    """How many facts came to what, as in ``14 learned, 2 not learned``."""
    statuses = ("learned", "known", "not learned", "lost", "left", "forgotten")
    words = {"known": "known before"}
    numbers = {each: sum(f.status == each for f in lesson.facts) for each in statuses}
    return ", ".join(f"{n} {words.get(each, each)}" for each, n in numbers.items() if n)


def lesson_line(lesson: Lesson, task: int, entry: PatchEntry | None) -> str:
    """One finished task, for the terminal."""
    facts = lesson.of_task(task)
    right = sum(fact.is_done for fact in facts)
    told = f"{lesson.name}, task {task + 1} of {lesson.tasks}: {right} of {len(facts)} answered"
    if entry is None:
        return f"{told} before, nothing to teach"
    return (
        f"{told} in new wordings; {entry.rows:,} rows, {entry.steps} steps, {entry.seconds:.0f} s"
    )


def patch_line(record: Record, entry: PatchEntry) -> str:
    """What a patch taught, and its size."""
    facts = record.facts_of(entry)
    learned = len({fact.key for fact in facts if fact.status == "learned"})
    told = f"{learned} of {len({fact.key for fact in facts})} facts learned"
    return f"{told}, {entry.rows:,} rows, {entry.steps} steps"


def mended_line(entry: PatchEntry, was: int, now: int) -> str:
    """What teaching some facts once more has come to, for the terminal."""
    told = f"{entry.lesson}, once more: {len(entry.questions)} facts, {entry.steps} steps"
    if now <= was:
        return f"{told}; no more facts are answered than before, so the patch is not kept"
    return f"{told}, {entry.rows:,} rows; {now} facts are answered, {was} before"


def checks_lines(before: Checks, after: Checks) -> Iterator[str]:
    """What was kept beside the facts."""
    if after.known is not None:
        was = "" if before.known is None else f" ({before.known} before)"
        yield f"known answers kept: {after.known} of {after.of}{was}"
    if after.text_loss is not None:
        rise = ""
        if before.text_loss is not None:
            rise = f" ({before.text_loss:.4f} before, {after.text_loss - before.text_loss:+.4f})"
        yield f"loss of general text: {after.text_loss:.4f} nats a token{rise}"


def report_text(record: Record, directory: str) -> str:
    """The report in Markdown."""
    lines = [f"# What {record.model['path']} was taught", ""]
    for lesson in record.lessons:
        names = [entry.name for entry in record.patches if entry.lesson == lesson.name]
        lines += [f"## {lesson.name}", "", f"From `{lesson.file}`: {counts(lesson)}.", ""]
        if lesson.after is not None:
            lines += [f"* {line}" for line in checks_lines(lesson.before, lesson.after)]
        lines += [f"* {lesson.seconds:.0f} seconds; patches: {', '.join(names) or 'none'}", ""]
        lines += ["| asked | expected | said before | said after | |", "|---|---|---|---|---|"]
        lines += [_row(fact) for fact in lesson.facts]
        lines += [""]
    lines += ["Each fact was asked in wordings that it was not trained in.", ""]
    lines += ["```", *commands(record, directory), "```", ""]
    return "\n".join(lines)


def commands(record: Record, directory: str) -> list[str]:
    """What to go on with."""
    found = [f'smf ask {directory} "QUESTION"', f"smf teach {directory} MORE_FACTS"]
    if record.patches:
        found.append(f"smf forget {directory} {record.patches[-1].name}")
    return [*found, f"smf list {directory}", f"smf check {directory}"]


def _row(fact: TaughtFact) -> str:
    cells = (fact.question, fact.answers[0], _said(fact.before), _said(fact.after), fact.status)
    return f"| {' | '.join(map(_cell, cells))} |"


def _said(said: tuple[Said, ...]) -> str:
    return " / ".join(dict.fromkeys(each.said or "(nothing)" for each in said))


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
