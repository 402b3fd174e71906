"""Names of sets of patches: what clients give as a model's name.

``base`` is the model before it was taught, ``taught`` the model with all patches, and
``base+A+B`` the one with some of them, each named by itself or by its lesson.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from smf_jax.sparse.patch import Patch, shared_places
from smf_jax.taught.record import Record

BASE, TAUGHT, JOIN = "base", "taught", "+"
MOST = 512  # characters of a name


class UnknownModel(ValueError):
    """A name that is no set of patches."""


def places_of(record: Record, name: str) -> tuple[int, ...]:
    """The places of the patches that a name stands for, ascending.

    An `UnknownModel` names those that there are.
    """
    if name == TAUGHT:
        return tuple(range(len(record.patches)))
    head, join, rest = name[:MOST].partition(JOIN)
    if head != BASE or len(name) > MOST or (join and not rest):
        raise _unknown(record, name)
    places: set[int] = set()
    words = rest.split(JOIN) if rest else []
    while words:
        # A patch that was made of two may have a + in its name: the longest name counts.
        for count in range(len(words), 0, -1):
            if found := _named(record, JOIN.join(words[:count])):
                places |= found
                words = words[count:]
                break
        else:
            raise _unknown(record, name)
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


def _named(record: Record, name: str) -> set[int]:
    entries = enumerate(record.patches)
    return {place for place, entry in entries if name in (entry.name, entry.lesson)}


def _unknown(record: Record, name: str) -> UnknownModel:
    has = ", ".join(entry.name for entry in record.patches)
    return UnknownModel(
        f"model={name[:80]!r} is no set of patches: expected {BASE}, {TAUGHT} or {BASE}{JOIN}PATCH"
        f"{JOIN}…, of the patches {has or '(none)'}"
    )
