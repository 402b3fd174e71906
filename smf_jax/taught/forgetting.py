"""Taking patches of a taught model back, to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from smf_jax.sparse.patch import shared_places
from smf_jax.sparse.patch_sets import chained
from smf_jax.taught.config import ForgetConfig
from smf_jax.taught.directory import TaughtDirectory
from smf_jax.taught.record import PatchEntry, Record
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


def chosen_places(record: Record, names: Sequence[str]) -> set[int]:
    """Places of the patches that are named, each by itself or by its lesson."""
    places: set[int] = set()
    for name in names:
        found = {
            place
            for place, entry in enumerate(record.patches)
            if name in (entry.name, entry.lesson)
        }
        if not found:
            has = ", ".join(entry.name for entry in record.patches)
            raise ValueError(
                f"PATCH={name}: no such patch or lesson; expected one of: "
                f"{has or 'none, there are no patches'}"
            )
        places |= found
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
    return record
