"""Joining what several directories were taught, each on the same base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from smf_jax.evaluation.scorer import Scorer
from smf_jax.sparse.patch import Patch, shared_places
from smf_jax.sparse.patch_sets import chained, merge_patches, stack_patches
from smf_jax.taught.answers import ROWS, Answers
from smf_jax.taught.config import MergeConfig
from smf_jax.taught.directory import TaughtDirectory
from smf_jax.taught.record import PatchEntry, Record
from smf_jax.taught.report import write_report

MERGED = "merged"


def merge(config: MergeConfig) -> tuple[Record, Record]:
    """Puts what other directories were taught into the first; returns its record before and after.

    Where they wrote other rows each patch stays one that can be taken back. Where two wrote the
    same rows the policy decides, and one patch takes the place of all. All facts are asked then. A
    ValueError tells of another base, or names what disagrees; nothing has changed then.
    """
    if len(config.arguments) < 2:
        raise ValueError("expected DIR and OTHER: smf merge DIR OTHER …")
    directory, *others = (TaughtDirectory(path) for path in config.arguments)
    for each in (directory, *others):
        each.require()
    with directory.held():
        was = directory.read()
        mark, records = directory.base_fingerprint(), [was, *(each.read() for each in others)]
        for other in others:
            if other.base_fingerprint() != mark:
                raise ValueError(
                    f"{other.named}: its base is {other.base_fingerprint()[:12]}, that of "
                    f"{directory.named} is {mark[:12]}; patches fit the base that they were made on"
                )
        own = directory.load_patches(was)
        sets = [own, *(o.load_patches(r) for o, r in zip(others, records[1:], strict=True))]
        record, patches = _joined(config, records, sets, mark)
        base = directory.load_base()
        params = directory.load_params(base, patches)
        answers = Answers(Scorer(base.model, ROWS), base.tokenizer)
        asked = [fact for fact in record.current().values() if fact.before]
        record = record.hearing(asked, answers.again(params, asked))
        pairs = list(zip(record.patches, patches, strict=True))
        record = directory.replace_patches(record, own, pairs)
        write_report(directory, record)
    return was, record


def _joined(
    config: MergeConfig, records: Sequence[Record], sets: Sequence[list[Patch]], mark: str
) -> tuple[Record, list[Patch]]:
    """The record of all lessons, and its patches in order."""
    record = records[0]
    for other in records[1:]:
        record = _with_lessons(record, other)
    stacks = [stack_patches(patches) for patches in sets if patches]
    if not stacks:
        return record, []
    met = [
        shared
        for at, first in enumerate(stacks)
        for second in stacks[at + 1 :]
        if (shared := shared_places(first, second))
    ]
    if not met:
        patches = [patch for patches in sets for patch in patches]
        named = zip(patches, record.patches, strict=True)
        return record, chained([replace(patch, task=entry.name) for patch, entry in named], mark)
    if config.policy == "refuse":
        raise ValueError(
            f"{' and '.join(config.arguments)} wrote the same rows ({'; '.join(met[0])}); teach "
            "the facts of one on top of the other, or choose whose rows count by --policy=first, "
            "last or mean"
        )
    merged = replace(merge_patches(stacks, config.policy), task=MERGED)
    lesson = record.patches[0].lesson
    known = tuple(fact.question for fact in record.current().values() if fact.status == "learned")
    steps = sum(entry.steps for entry in record.patches)
    seconds = sum(entry.seconds for entry in record.patches)
    number = record.lesson(lesson).tasks
    entry = PatchEntry(MERGED, "", "", merged.rows, lesson, number, steps, seconds, known)
    return replace(record, patches=(entry,)), [merged]


def _with_lessons(record: Record, other: Record) -> Record:
    """A record with the lessons and patches of another behind its own, under names of their own.

    Patches keep their order, in which those of lessons may take turns.
    """
    names = {}
    for lesson in other.lessons:
        names[lesson.name] = record.free_name(lesson.name)
        record = record.with_lesson(replace(lesson, name=names[lesson.name]))
    for entry in other.patches:
        lesson, of_task = names[entry.lesson], entry.name.removeprefix(f"{entry.lesson}_")
        name = entry.name if of_task == entry.name else f"{lesson}_{of_task}"
        new = replace(entry, lesson=lesson, name=record.free_patch_name(name))
        record = replace(record, patches=(*record.patches, new))
    return record
