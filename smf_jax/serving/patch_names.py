"""Names of sets of patches: what clients give as a model's name.

``base`` is the model before it was taught, ``taught`` the model with all patches, and
``base+A+B`` the one with some of them, each named by itself or, if none is, by its lesson.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from smf_jax.sparse.patch import Patch, shared_places
from smf_jax.taught.record import Record

BASE, TAUGHT, JOIN = "base", "taught", "+"
LONGEST_NAME = 20_000  # characters: some hundred patches


class UnknownModel(ValueError):
    """A name that is no set of patches."""


def places_of(record: Record, name: str) -> tuple[int, ...]:
    """The places of the patches that a name stands for, ascending.

    An `UnknownModel` names those that there are.
    """
    if name == TAUGHT:
        return tuple(range(len(record.patches)))
    head, join, rest = name[:LONGEST_NAME].partition(JOIN)
    if head != BASE or len(name) > LONGEST_NAME or (join and not rest):
        raise _unknown(record, name)
    names = {each for entry in record.patches for each in (entry.name, entry.lesson)}
    # A patch that was made of two may have a + in its name: the longest name counts.
    parts = {each: tuple(each.split(JOIN)) for each in sorted(names, key=len, reverse=True)}
    places: set[int] = set()
    words, at = tuple(rest.split(JOIN)) if rest else (), 0
    while at < len(words):
        here = (each for each, part in parts.items() if words[at : at + len(part)] == part)
        if (found := next(here, None)) is None:
            raise _unknown(record, name)
        places.update(record.places(found))
        at += len(parts[found])
    return tuple(sorted(places))


def require_whole(record: Record, patches: Sequence[Patch], places: Sequence[int]) -> None:
    """Refuses a set that leaves out a patch which a later one of the set wrote over."""
    for later in places:
        for missing in sorted(set(range(later)).difference(places)):
            if shared := shared_places(patches[missing], patches[later]):
                first, second = record.patches[missing].name, record.patches[later].name
                raise ValueError(
                    f"{second} was taught on top of {first} and wrote over its rows "
                    f"({'; '.join(shared)}): take {first} into the set too, or {second} out"
                )


def written_over(patches: Sequence[Patch], later: int) -> list[int]:
    """The places of the patches whose rows a later one wrote over: it stands on them."""
    return [place for place in range(later) if shared_places(patches[place], patches[later])]


def listed_names(record: Record) -> Iterator[str]:
    """The names that are told to clients: not every set, of which there are too many."""
    yield from (BASE, TAUGHT)
    names = [entry.lesson for entry in record.patches] + [entry.name for entry in record.patches]
    yield from (BASE + JOIN + name for name in dict.fromkeys(names))


def _unknown(record: Record, name: str) -> UnknownModel:
    has = ", ".join(entry.name for entry in record.patches)
    return UnknownModel(
        f"model={name[:80]!r} is no set of patches: expected {BASE}, {TAUGHT} or {BASE}{JOIN}PATCH"
        f"{JOIN}…, of the patches {has or '(none)'}"
    )
