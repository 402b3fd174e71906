"""Ablation grids as files: settings of a sweep, crossed, zipped or changed one at a time."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import Any

from smf_jax.checkpoints.manifest import sha256_of_json
from smf_jax.configuration import Flag, flags_of
from smf_jax.continual.config import SweepConfig
from smf_jax.errors import blame_flag
from smf_jax.paths import PathLike, as_path

UNCHANGED = "unchanged"  # the name of the cell that is as the settings of the file
_LONGEST = 120  # characters of a name; file systems take 255 bytes
# What is told beside the settings, or makes streams that do not compare.
_FIXED = ("out", "resume", "overwrite", "shard", "preset", "scale", "tasks")
_FIXED += ("dry_run", "calibrate")
_PARTS = ("preset", "scale", "settings", "cross", "zip", "chain")
Changes = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One sweep of an ablation."""

    changes: Changes  # what is varied, by flag
    config: SweepConfig

    @property
    def name(self) -> str:
        """What is varied, as the name of a directory: `layers15-background_batches50`."""
        words = (f"{flag}{value}" for flag, value in self.changes.items())
        whole = re.sub(r"[^A-Za-z0-9.+_-]+", "_", "-".join(words)) or UNCHANGED
        if len(whole) <= _LONGEST:
            return whole
        return f"{whole[:_LONGEST]}-{sha256_of_json(dict(self.changes))[:8]}"


@dataclass(frozen=True)
class Ablation:
    """What a file asks for, before it is laid out."""

    preset: str
    scale: str
    settings: Changes  # of every cell
    cross: Mapping[str, Sequence[Any]]  # axes of which every value meets every other
    zips: Sequence[Mapping[str, Sequence[Any]]]  # axes that move together, each group as one
    chain: Mapping[str, Sequence[Any]]  # values that are tried alone, beside `settings`

    def cells(self, start: SweepConfig) -> tuple[Cell, ...]:
        """All sweeps, each once, from what a preset or the defaults give.

        With a chain the first is that of the settings themselves. A ValueError names a setting
        whose value is refused, or two sweeps that would have one name.
        """
        start = start.with_values(**self.settings)
        steps = [[{name: value} for value in values] for name, values in self.cross.items()]
        steps += [[dict(zip(of, row, strict=True)) for row in _rows(of)] for of in self.zips]
        changes: list[Changes] = [
            {name: value for part in parts for name, value in part.items()}
            for parts in product(*steps)
        ]
        if self.chain and {} not in changes:
            changes.insert(0, {})
        changes += [{name: value} for name, values in self.chain.items() for value in values]
        cells: dict[str, Cell] = {}
        for each in changes:
            cell = Cell(each, start.with_values(**each))
            same = cells.setdefault(cell.name, cell)
            if dict(same.changes) != dict(each):
                raise ValueError(
                    f"{dict(same.changes)} and {dict(each)} would both be named {cell.name}; give "
                    "values that differ in letters or digits"
                )
        return tuple(cells.values())


def read_ablation(file: PathLike) -> Ablation:
    """Reads a grid file in TOML; docs/ablations.md tells what its parts are.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no TOML, or a part, a setting or a value is not what it should be; an
        unknown setting is told with the nearest known one.
    """
    path = as_path(file)
    with blame_flag(f"{path}: "):
        try:
            told = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"no TOML: {error}") from None
        if unknown := sorted(told.keys() - set(_PARTS)):
            raise ValueError(f"{unknown[0]!r} is no part; expected {', '.join(_PARTS)}")
        groups = told.get("zip", [])
        groups = groups if isinstance(groups, list) else [groups]
        if not all(groups):
            raise ValueError("zip: a group is empty; give it settings, or take it out")
        found = Ablation(
            preset=_text(told, "preset"),
            scale=_text(told, "scale") or "full",
            settings={flag.name: _value(flag, value) for flag, value in _each(told, "settings")},
            cross=_axes(told, "cross"),
            zips=[_axes({"zip": group}, "zip") for group in groups],
            chain=_axes(told, "chain"),
        )
        for group in found.zips:
            lengths = {name: len(values) for name, values in group.items()}
            if len(set(lengths.values())) > 1:
                raise ValueError(f"zip: values go together, but there are {lengths}")
        axes = [*found.cross, *(name for group in found.zips for name in group)]
        if not (axes or found.chain):
            raise ValueError("nothing is varied; give an axis in cross, zip or chain")
        if twice := sorted({name for name in axes if axes.count(name) > 1}):
            raise ValueError(f"{twice[0]} is crossed or zipped twice; give it once")
    return found


def _text(told: Mapping[str, Any], part: str) -> str:
    value = told.get(part, "")
    if not isinstance(value, str):
        raise ValueError(f"{part}={value!r}: expected text")
    return value


def _rows(group: Mapping[str, Sequence[Any]]) -> list[tuple[Any, ...]]:
    return list(zip(*group.values(), strict=True))


def _axes(told: Mapping[str, Any], part: str) -> dict[str, list[Any]]:
    axes = {}
    for flag, values in _each(told, part):
        if not isinstance(values, list) or not values:
            raise ValueError(f"{part}: {flag.name}={values!r}: expected a list of values")
        axes[flag.name] = [_value(flag, value) for value in values]
    return axes


def _each(told: Mapping[str, Any], part: str) -> Iterator[tuple[Flag, Any]]:
    """The settings of a part, by flag or by their path as in ``training.batch_size``."""
    table = told.get(part, {})
    if not isinstance(table, dict):
        raise ValueError(f"{part}={table!r}: expected a table of settings")
    flags = flags_of(SweepConfig())
    by_path = {flag.path: flag for flag in flags.values()}
    seen: set[str] = set()
    for place, value in _leaves(table, ()):
        flag = flags.get(place[0]) if len(place) == 1 else by_path.get(place)
        if flag is None:
            if place[-1] not in flags:
                SweepConfig().with_values(**{place[-1]: None})  # which names the nearest
            known = ".".join(flags[place[-1]].path)
            raise ValueError(f"{part}: {'.'.join(place)} is no setting; did you mean {known}?")
        if flag.name in _FIXED and not (flag.name == "tasks" and part == "settings"):
            raise ValueError(f"{part}: {flag.name} is not varied; give it once, for all sweeps")
        if flag.name in seen:
            raise ValueError(f"{part}: {flag.name} is given twice; give it once")
        seen.add(flag.name)
        yield flag, value


def _leaves(table: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[Any, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _value(flag: Flag, value: Any) -> Any:
    """A value as the setting has it: TOML tells whole numbers from others, and both from text."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if flag.kind is float and is_number:
        with suppress(OverflowError):
            return float(value)
    if flag.kind is str and is_number:
        return str(value)
    if type(value) is not flag.kind:
        raise ValueError(f"{flag.name}={value!r}: expected {flag.kind.__name__}")
    return value
