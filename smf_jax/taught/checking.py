"""Checking a taught model: its files, what differs from its base, and its answers again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from smf_jax.sparse.patch import diff_params
from smf_jax.sparse.patch_text import describe_patch
from smf_jax.taught.asking import TaughtModel
from smf_jax.taught.checks import Checked
from smf_jax.taught.config import CheckConfig, ListConfig
from smf_jax.taught.directory import TaughtDirectory
from smf_jax.taught.record import Checks, Record
from smf_jax.taught.report import checks_lines, commands, counts, patch_line


class Found(NamedTuple):
    """What a check has found; a file that is not what was written is an error instead."""

    base: str  # fingerprint
    patches: int
    rows: dict[str, int]  # rows that differ from the base, by table
    others: list[str]  # scalars that differ
    leaves: int  # that are the base's, bit for bit
    before: Checks  # of the base
    after: Checks  # of the model
    facts: int  # facts that the lessons left learned
    answered: int  # of them, those that are answered now
    lost: list[str]  # the questions of the others


def check(config: CheckConfig) -> Found:
    """Reads everything, compares every leaf with the base's and asks all questions again."""
    directory = the_directory(config.arguments, "check")
    model = TaughtModel(directory)
    fingerprint = directory.base_fingerprint()
    differs = describe_patch(
        diff_params(model.base.params, model.params, task="all", base=fingerprint)
    )
    rows = {path: pool["rows"] for path, pool in differs["pools"].items()}
    checked = Checked(directory, model.base, model.record)
    facts = list(model.record.current().values())
    heard = model.answers.again(model.params, facts)
    right = [all(said.right for said in each) for each in heard]
    return Found(
        base=fingerprint,
        patches=len(model.patches),
        rows=rows,
        others=list(differs["scalars"]),
        leaves=len(model.params) - len(rows) - len(differs["scalars"]),
        before=checked.of(model.answers, model.base.params),
        after=checked.of(model.answers, model.params),
        facts=len(facts),
        answered=sum(right),
        lost=[fact.question for fact, is_right in zip(facts, right, strict=True) if not is_right],
    )


def found_text(found: Found) -> str:
    """What a check has found, for the terminal."""
    changed = ", ".join(f"{count:,} rows of {path}" for path, count in found.rows.items())
    changed = ", ".join(filter(None, [changed, *found.others])) or "nothing"
    lines = [
        f"base {found.base[:12]} and {found.patches} patches are as they were written",
        f"differs from the base: {changed}; {found.leaves} leaves are the same, bit for bit",
        *checks_lines(found.before, found.after),
    ]
    if found.facts:
        lines.append(f"facts answered: {found.answered} of {found.facts}")
    return "\n".join([*lines, *(f"  lost: {question}" for question in found.lost)])


def listed(config: ListConfig) -> tuple[TaughtDirectory, Record]:
    """The record of a taught model."""
    directory = the_directory(config.arguments, "list")
    return directory, directory.read()


def list_text(directory: TaughtDirectory, record: Record) -> str:
    """The lessons and patches of a model, for the terminal."""
    path = directory.path
    lines = [f"{path}: made of {record.model['path']}"]
    for lesson in record.lessons:
        lines += ["", f"{lesson.name}, from {lesson.file}: {counts(lesson)}"]
        for entry in record.patches:
            if entry.lesson == lesson.name:
                lines.append(f"  {entry.name}: {patch_line(record, entry)} ({entry.file})")
        if lesson.left():
            lines.append(f"  not taught yet: go on with smf teach {path} {lesson.file}")
    lines += ["", *commands(record, str(path))]
    if record.patches:
        lines.append(f"python -m experiments.patch show {path / record.patches[-1].file}")
    if directory.is_in_floats:
        lines.append(f"smf export {path} --out=NEW")
    return "\n".join(lines)


def the_directory(arguments: Sequence[str], verb: str) -> TaughtDirectory:
    """The taught model that is a verb's only argument."""
    if len(arguments) != 1:
        raise ValueError(f"{len(arguments)} arguments given, expected DIR: smf {verb} DIR")
    directory = TaughtDirectory(arguments[0])
    directory.require()
    return directory
