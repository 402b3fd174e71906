"""Taking patches of a taught model back, to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from smf_jax.sparse.patch import Patch, shared_places
from smf_jax.sparse.patch_sets import chained
from smf_jax.taught.asking import TaughtModel
from smf_jax.taught.config import ForgetConfig
from smf_jax.taught.directory import TaughtDirectory
from smf_jax.taught.fact_rows import (
    SHARES,
    find_fact,
    patches_of,
    shares_of,
    taught_by,
    without_rows,
)
from smf_jax.taught.record import PatchEntry, Record, TaughtFact
from smf_jax.taught.report import write_report


def forget(config: ForgetConfig) -> tuple[Record, list[PatchEntry]]:
    """Takes patches back, by name or all of a lesson; returns the record and what went.

    Every row that they changed has its bits of before, of those that other patches changed too
    what these made of it. Later patches stay, where they changed other rows. A ValueError tells
    which name is none, or which later patches are in the way; nothing has changed then.
    """
    if len(config.arguments) < 2:
        raise ValueError("expected DIR and PATCH: smf forget DIR PATCH …; smf list DIR names them")
    path, *names = config.arguments
    directory = TaughtDirectory(path)
    directory.require()
    with directory.held():
        record = directory.read()
        places = sorted(chosen_places(record, names))
        patches = directory.load_patches(record)
        kept = [place for place in range(len(patches)) if place not in places]
        blocking = [
            (record.patches[place].name, record.patches[later].name, shared)
            for place in places
            for later in kept
            if later > place and (shared := shared_places(patches[place], patches[later]))
        ]
        if blocking:
            raise ValueError(_told(path, record, places, blocking))
        left = chained([patches[place] for place in kept], directory.base_fingerprint())
        # Puts them into the base, bit for bit: what does not fit is refused before anything goes.
        directory.load_params(directory.load_base(), left)
        gone = [record.patches[place] for place in places]
        pairs = [(record.patches[place], new) for place, new in zip(kept, left, strict=True)]
        record = _without_facts(record, gone)
        record = directory.replace_patches(record, patches, pairs)
        write_report(directory, record)
    return record, gone


class Forgotten(NamedTuple):
    """What has come of taking one fact back."""

    fact: TaughtFact  # with what the model says to it now
    rows: int  # that are as before the patches that taught it
    lost: list[str]  # questions of other facts that are not answered any more


def forget_fact(config: ForgetConfig) -> tuple[Record, Forgotten]:
    """Takes one fact back: the rows of its patches that are read for it more than for others.

    As many rows go as it takes until the fact is not answered any more; rows that later patches
    wrote stay. A ValueError tells that no learned fact is meant, or which patches hold what is
    left of it; nothing has changed then.
    """
    if len(config.arguments) != 1:
        raise ValueError("expected DIR alone: smf forget DIR --fact=QUESTION")
    directory = TaughtDirectory(config.arguments[0])
    directory.require()
    with directory.held():
        model = TaughtModel(directory)
        record = model.record
        fact = find_fact(record, config.fact)
        places = patches_of(record, fact)
        beside = [each for place in places for each in taught_by(record, record.patches[place])]
        others = [each for each in dict.fromkeys(beside) if each is not fact]
        shares = shares_of(model, fact, others)
        for least in SHARES:
            patches, gone = list(model.patches), 0
            for place in reversed(places):
                later = patches[place + 1 :]
                patches[place], rows, _ = without_rows(patches[place], shares, least, later)
                gone += rows
            kept = [place for place, patch in enumerate(patches) if patch.rows or patch.scalars]
            left = chained([patches[place] for place in kept], directory.base_fingerprint())
            params = directory.load_params(model.base, left)
            (said,) = model.answers.again(params, [fact])
            if not any(each.right for each in said):
                break
        else:
            blocking = _written_later(model.patches, record, places)
            raise ValueError(
                f"--fact={config.fact}: it is answered still without the rows that no later patch "
                f"wrote; take whole patches back: smf forget {directory.path} "
                f"{' '.join([record.patches[place].name for place in places] + blocking)}"
            )
        known = [each for each in record.current().values() if each is not fact]
        told = replace(fact, status="forgotten", after=said)
        record = record.hearing(known, model.answers.again(params, known))
        for lesson in record.lessons:
            facts = tuple(told if each is fact else each for each in lesson.facts)
            record = record.with_lesson(replace(lesson, facts=facts))
        entries = (replace(record.patches[place], rows=patches[place].rows) for place in kept)
        record = directory.replace_patches(
            record, model.patches, list(zip(entries, left, strict=True))
        )
        write_report(directory, record)
    answered = record.current()
    lost = [each.question for each in known if each.key[0] not in answered]
    return record, Forgotten(told, gone, lost)


def _written_later(patches: Sequence[Patch], record: Record, places: Sequence[int]) -> list[str]:
    """Names of the patches that wrote rows of these after them."""
    return [
        record.patches[later].name
        for later in range(min(places) + 1, len(patches))
        if later not in places
        and any(shared_places(patches[place], patches[later]) for place in places if place < later)
    ]


def chosen_places(record: Record, names: Sequence[str]) -> set[int]:
    """Places of the patches that are named, each by itself or, if none is, by its lesson."""
    places: set[int] = set()
    for name in names:
        if not (found := record.places(name)):
            has = ", ".join(entry.name for entry in record.patches)
            raise ValueError(
                f"PATCH={name}: no such patch or lesson; expected one of: "
                f"{has or 'none, there are no patches'}"
            )
        places.update(found)
    return places


def _told(
    path: str, record: Record, places: Sequence[int], blocking: list[tuple[str, str, list[str]]]
) -> str:
    name, later, shared = blocking[0]
    more = dict.fromkeys(each for _, each, _ in blocking)
    all_names = [record.patches[place].name for place in places] + list(more)
    return (
        f"PATCH={name} cannot be taken back: {later} was taught later and wrote over its rows "
        f"({'; '.join(shared)}). Take the later ones back with it, and teach their facts again: "
        f"smf forget {path} {' '.join(all_names)}"
    )


def _without_facts(record: Record, gone: Sequence[PatchEntry]) -> Record:
    """The record in which the facts of these patches are forgotten."""
    for entry in gone:
        lesson = record.lesson(entry.lesson)
        facts = [
            fact if fact.status == "known" else replace(fact, status="forgotten")
            for fact in lesson.of_task(entry.task)
        ]
        record = record.with_lesson(lesson.with_task(entry.task, facts))
        for lesson in record.lessons if entry.questions else ():
            facts = tuple(
                replace(fact, status="forgotten")
                if fact.question in entry.questions and fact.status in ("learned", "lost")
                else fact
                for fact in lesson.facts
            )
            record = record.with_lesson(replace(lesson, facts=facts))
    return record
