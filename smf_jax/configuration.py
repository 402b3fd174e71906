"""Nested configurations: frozen dataclasses whose fields are the flags of the commands.

A configuration is a tree of sections. Every field that is made by `setting` has a name of its own
in the whole tree, which is its flag, its key in files, and the word that its errors begin with.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from smf_jax.paths import expand

PathText = Annotated[str, "names a file or a directory"]  # expanded by `smf_jax.paths.expand`
COUNT = 10**7  # more of anything than memory holds
SEED = 2**63 - 1  # the largest seed
LIMIT = 10**11  # of what is read at most, which files end before


def setting(
    default: Any,
    help: str,
    *,
    name: str = "",
    heading: str = "",
    first: bool = False,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
) -> Any:
    """A field of a section that is a flag.

    Args:
      default: its value where the flag is not given.
      help: what it does, its unit and its choices.
      name: of the flag, where it differs from the field's.
      heading: that it stands under in ``--help``, where a configuration has no sections.
      first: whether it stands on the first page of ``--help``.
      least: the smallest number allowed; NaN and infinity are refused too.
      above: the number that it must exceed.
      most: the largest number allowed; of whole numbers `COUNT` if not given.
    """
    words = {"help": help, "name": name, "under": heading, "first": first}
    bounds = {"least": least, "above": above, "most": most}
    return dataclasses.field(default=default, metadata=words | bounds)


def part(section: Any, heading: str = "", names: Mapping[str, str] | None = None) -> Any:
    """A field of a configuration that is a section of it, with its default.

    Its flags stand under ``heading``, if empty that of the section around it; ``names`` are the
    flags of some of its fields, where they differ from the fields' names.
    """
    metadata = {"heading": heading, "names": dict(names or {})}
    return dataclasses.field(default=section, metadata=metadata)


@dataclass(frozen=True)
class Flag:
    """One setting of a configuration; `setting` says what its words are."""

    name: str
    path: tuple[str, ...]  # of the field, from the root of the configuration
    kind: type  # ``bool``, ``int``, ``float`` or ``str``
    choices: tuple[str, ...]  # that a text is one of; empty for any
    default: Any
    help: str
    heading: str
    first: bool
    is_path: bool  # names a file or a directory


class Configuration:
    """What every configuration and every section of one can do; a base of frozen dataclasses."""

    def __post_init__(self) -> None:
        _expand_paths(self)
        check_settings(self)

    @classmethod
    def of(cls, **values: Any) -> Self:
        """The defaults with values by the names of flags, whatever section they stand in."""
        return cls().with_values(**values)

    def with_values(self, **values: Any) -> Self:
        """This configuration with other values, by the names of flags.

        Raises:
          ValueError: for a name that no setting has, naming the nearest; or from a check.
        """
        flags = flags_of(self)
        for name in values.keys() - flags.keys():
            near = difflib.get_close_matches(name, flags, 1)
            hint = f"; did you mean --{near[0]}?" if near else ""
            raise ValueError(f"--{name} is no flag of {type(self).__name__}{hint}")
        return _with_paths(self, {flags[name].path: value for name, value in values.items()})

    def values(self) -> dict[str, Any]:
        """Every setting by the name of its flag: the form that files hold."""
        return {name: flag.default for name, flag in flags_of(self).items()}


def flags_of(configuration: Any) -> dict[str, Flag]:
    """The flags of a configuration by name, in the order of its fields.

    Raises:
      TypeError: if two settings have one name.
    """
    found: dict[str, Flag] = {}
    for flag in _walk(configuration, (), "", {}):
        if flag.name in found:
            raise TypeError(f"two settings of {type(configuration).__name__} are --{flag.name}")
        found[flag.name] = flag
    return found


def _expand_paths(section: Any) -> None:
    """Puts what `expand` gives into the settings of a section that are paths."""
    for field in dataclasses.fields(section):
        if _is_path(type(section), field.name):
            try:
                value = expand(os.fspath(getattr(section, field.name)))
            except ValueError as error:
                raise ValueError(f"--{field.metadata['name'] or field.name}={error}") from None
            object.__setattr__(section, field.name, value)  # frozen, but not made yet


def check_settings(section: Any) -> None:
    """Refuses settings of a section outside of their choices and bounds.

    Raises:
      ValueError: naming the flag, the value and what was expected.
    """
    for field in dataclasses.fields(section):
        if "help" not in field.metadata:
            continue
        name, value = field.metadata["name"] or field.name, getattr(section, field.name)
        kind, choices = _kind_of(type(section), field.name)
        if choices and value is not None and value not in choices:
            raise ValueError(f"--{name}={value} is unknown; choose from {', '.join(choices)}")
        least, above, most = (field.metadata[bound] for bound in ("least", "above", "most"))
        if value is None:
            continue
        if most is None and kind is int:
            most = COUNT
        if most is not None and value > most and math.isfinite(value):
            raise ValueError(f"--{name}={value}: expected at most {most:,}")
        fits = (least is None or value >= least) and (above is None or value > above)
        if not fits or (isinstance(value, float) and not math.isfinite(value)):
            expected = "a number" if above is None else f"a number above {above}"
            expected = expected if least is None else f"at least {least}"
            raise ValueError(f"--{name}={value}: expected {expected}")


def _walk(
    section: Any, path: tuple[str, ...], heading: str, names: Mapping[str, str]
) -> Iterator[Flag]:
    for field in dataclasses.fields(section):
        value, place = getattr(section, field.name), (*path, field.name)
        if "heading" in field.metadata:
            of_part = field.metadata["heading"] or heading
            yield from _walk(value, place, of_part, field.metadata["names"])
        elif "help" in field.metadata:
            told = field.metadata
            kind, choices = _kind_of(type(section), field.name)
            name = names.get(field.name) or told["name"] or field.name
            under = told["under"] or heading
            marks = told["first"], _is_path(type(section), field.name)
            yield Flag(name, place, kind, choices, value, told["help"], under, *marks)


@cache
def _is_path(section: type, name: str) -> bool:
    """Whether a field is a `PathText`."""
    return get_type_hints(section, include_extras=True)[name] == PathText


@cache
def _kind_of(section: type, name: str) -> tuple[type, tuple[str, ...]]:
    """The type of a field's values, and the choices of a `Literal`."""
    hint = get_type_hints(section)[name]
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (each for each in get_args(hint) if each is not type(None))
    if get_origin(hint) is Literal:
        return str, get_args(hint)
    return hint, ()


def _with_paths(section: Any, values: Mapping[tuple[str, ...], Any]) -> Any:
    """The section with values by the paths of their fields."""
    own = {path[0]: value for path, value in values.items() if len(path) == 1}
    for field in dataclasses.fields(section):
        inner = {path[1:]: v for path, v in values.items() if path[0] == field.name and path[1:]}
        if not inner:
            continue
        try:
            own[field.name] = _with_paths(getattr(section, field.name), inner)
        except ValueError as error:  # of a section that knows only its fields' names
            name, equals, rest = str(error).partition("=")
            if not equals or name.startswith("--"):
                raise
            raise ValueError(f"--{field.metadata['names'].get(name, name)}={rest}") from error
    return dataclasses.replace(section, **own)
