"""Nested configurations as flat names: values, bounds, choices, and the words of errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from smf_jax.configuration import Configuration, flags_of, part, setting


@dataclass(frozen=True)
class Inner:
    """A section that knows nothing of flags."""

    heads: int = setting(2, "heads")
    width: int = setting(8, "width")

    def __post_init__(self) -> None:
        if self.heads > self.width:
            raise ValueError(f"heads={self.heads} exceed width={self.width}")


@dataclass(frozen=True)
class Section(Configuration):
    kind: Literal["one", "two"] = setting("one", "which", first=True)
    share: float = setting(0.5, "a share", least=0)
    rate: float = setting(1.0, "a rate", above=0)
    limit: int | None = setting(None, "at most", name="section_limit")
    inner: Inner = part(Inner(), names={"heads": "inner_heads"})


@dataclass(frozen=True)
class Whole(Configuration):
    section: Section = part(Section(), "A section")
    loud: bool = setting(False, "or not", heading="Alone")
    hidden: int = 7


def test_settings_have_names_of_their_own_wherever_they_stand():
    assert Whole().values() == {
        "kind": "one",
        "share": 0.5,
        "rate": 1.0,
        "section_limit": None,
        "inner_heads": 2,
        "width": 8,
        "loud": False,
    }
    flags = flags_of(Whole())
    assert flags["inner_heads"].path == ("section", "inner", "heads")
    assert {flags[name].heading for name in ("kind", "width")} == {"A section"}
    assert flags["loud"].heading == "Alone"
    assert (flags["section_limit"].kind, flags["kind"].choices) == (int, ("one", "two"))
    assert [name for name, flag in flags.items() if flag.first] == ["kind"]


def test_values_go_to_their_sections_and_come_back():
    made = Whole.of(inner_heads=3, kind="two", loud=True)
    assert (made.section.inner.heads, made.section.kind, made.loud) == (3, "two", True)
    assert Whole.of(**made.values()) == made
    assert made.with_values(kind="one", inner_heads=2, loud=False) == Whole()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(kind="three"), "^--kind=three is unknown; choose from one, two"),
        (dict(share=-1.0), "^--share=-1.0: expected at least 0"),
        (dict(share=float("nan")), "^--share=nan: expected at least 0"),
        (dict(rate=0.0), "^--rate=0.0: expected a number above 0"),
        (dict(rate=float("inf")), "^--rate=inf: expected a number above 0"),
        (dict(inner_heads=9), "^--inner_heads=9 exceed width=8"),
        (dict(shere=1.0), "--shere is no flag of Whole; did you mean --share"),
        (dict(nonsense=1), "--nonsense is no flag of Whole$"),
    ],
)
def test_what_is_wrong_is_named_by_its_flag(values, message):
    with pytest.raises(ValueError, match=message):
        Whole.of(**values)


def test_settings_that_depend_on_each_other_are_set_together():
    assert Whole.of(inner_heads=9, width=10).section.inner == Inner(9, 10)


def test_two_settings_of_one_name_are_a_fault():
    @dataclass(frozen=True)
    class Twice(Configuration):
        first: Section = part(Section())
        kind: str = setting("", "again")

    with pytest.raises(TypeError, match="two settings of Twice are --kind"):
        flags_of(Twice())
