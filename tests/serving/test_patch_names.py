"""Names of sets of patches."""

from __future__ import annotations

import pytest

from smf_jax.serving.patch_names import UnknownModel, listed_names, places_of, require_whole
from smf_jax.sparse.patch import make_patch, pool_change
from smf_jax.taught.record import PatchEntry, Record

NAMES = ("a_01", "a_02", "b_01", "a_01+b_01")


def record() -> Record:
    entries = [PatchEntry(name, "", "", 1, name[0], 0, 1, 1.0) for name in NAMES]
    return Record({}, {}, (), tuple(entries))


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("base", ()),
        ("taught", (0, 1, 2, 3)),
        ("base+a_02", (1,)),
        ("base+b_01+a_02", (1, 2)),  # in the order in which they were taught
        ("base+a_01+a_01", (0,)),
        ("base+a", (0, 1, 3)),  # a lesson
        ("base+" + "+".join(NAMES), (0, 1, 2, 3)),
        ("base+b+a_01", (0, 2)),
        ("base+a_02+a_01+b_01", (1, 3)),  # a patch that was made of two
    ],
)
def test_a_name_stands_for_patches(name, places):
    assert places_of(record(), name) == places


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a_01",
        "base+",
        "base+c",
        "base++a_01",
        "taught+a_01",
        "base+a_01+",
        "BASE",
        "base+" * 99,
    ],
)
def test_other_names_are_refused_with_those_that_there_are(name):
    with pytest.raises(UnknownModel, match=r"expected base, taught or base\+PATCH\+….*a_01, a_02"):
        places_of(record(), name)


def test_of_many_patches_all_can_be_named():
    names = [f"company-handbook-questions_{n:02d}" for n in range(400)]
    many = Record({}, {}, (), tuple(PatchEntry(n, "", "", 1, "a", 0, 1, 1.0) for n in names))
    assert places_of(many, "+".join(["base", *names])) == tuple(range(400))
    with pytest.raises(UnknownModel):
        places_of(many, "+".join(["base", *names * 3]))


def test_names_that_are_told_are_names():
    told = list(listed_names(record()))
    assert told[:3] == ["base", "taught", "base+a"] and f"base+{NAMES[-1]}" in told
    assert [places_of(record(), name) for name in told]


def test_a_set_without_what_it_was_taught_on_is_refused():
    def patch(name, *slots):
        rows = [[float(slot)] for slot in slots]
        change = pool_change(slots, [[0.0]] * len(slots), rows, 9)
        return make_patch({"memory/pool_0/values": change}, task=name, base="b")

    made = [patch("a_01", 1, 2), patch("a_02", 2, 3), patch("b_01", 5), patch("c", 6)]
    require_whole(record(), made, (0, 1))
    require_whole(record(), made, (2, 3))
    with pytest.raises(ValueError, match="a_02 was taught on top of a_01.*slots 2.*take a_01"):
        require_whole(record(), made, (1, 2))
