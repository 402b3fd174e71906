"""What a benchmark leaves: measurements, which of them keep to their bounds, what was left out."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

from benchmarks.costs import Cost
from benchmarks.harness import Call, Case, Program, ProgramMemory, Timing, busy_seconds, take_turns
from benchmarks.machine import Rates, free_bytes
from experiments.report.tables import size

FORMAT = 1
BOUNDS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "bounds.json").read_text())
_HOLDS = {"at most": operator.le, "at least": operator.ge}
_UNITS = {"": 1.0, "ms": 1e-3, "GiB": 2.0**30, "MB": 1e6}
# Of the free memory, what a suite may plan to use.
_SHARE = 0.85


@dataclass(frozen=True)
class Measurement:
    """One case of a suite at one setting (shapes, such as ``table_slots``), with what is known.

    Equal names are one curve of a picture; the cost is counted from the algorithm.
    """

    suite: str
    name: str
    setting: Mapping[str, Any]
    cost: Cost | None = None
    timing: Timing | None = None
    compile_seconds: float | None = None
    memory: ProgramMemory | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def with_program(self, program: Program) -> Measurement:
        """The same with what compiling it told."""
        return replace(self, compile_seconds=program.compile_seconds, memory=program.memory)

    def to_dict(self, rates: Rates | None) -> dict[str, Any]:
        """As JSON values; shares and floors need the machine's rates."""
        row: dict[str, Any] = {"suite": self.suite, "name": self.name, "setting": {**self.setting}}
        if self.timing is not None:
            row["seconds"] = {
                "median": self.timing.median,
                "quartiles": self.timing.quartiles,
                "least": min(self.timing.samples),
                "samples": len(self.timing.samples),
            }
        if self.cost is not None:
            row["bytes"], row["operations"] = self.cost
            if rates is not None:
                row["floor_seconds"] = self.cost.floor_seconds(rates)
        if self.cost is not None and rates is not None and self.timing is not None:
            moved, operations = (needed / self.timing.median for needed in self.cost)
            row["share_of_copy_bandwidth"] = moved / rates.copy_bytes
            row["share_of_matmul_rate"] = operations / rates.operations
        if self.compile_seconds is not None:
            row["compile_seconds"] = self.compile_seconds
        if self.memory is not None:
            total = self.memory.held + self.memory.temporaries
            row["memory"] = {**self.memory._asdict(), "total": total}
        return row | dict(self.more)


@dataclass
class Report:
    """Collects what the suites find, as JSON values, and says it as it comes.

    There are no rates where nothing runs on this machine.
    """

    machine: dict[str, Any]
    flags: dict[str, Any]
    say: Callable[[str], None]
    rates: Rates | None = None
    measurements: list[dict[str, Any]] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)

    def add(self, measurement: Measurement) -> None:
        """Keeps a measurement and prints it."""
        self.measurements.append(measurement.to_dict(self.rates))
        self.say(line_of(self.measurements[-1]))

    def skip(self, what: str, reason: str) -> None:
        """Keeps and prints what is left out, and why."""
        self.skipped.append({"what": what, "reason": reason})
        self.say(f"  skipped {what}: {reason}")

    def has_room(self, what: str, needed: float) -> bool:
        """Whether so many bytes are free; if not, what needs them is left out."""
        free = free_bytes()
        if free is None or needed <= _SHARE * free:
            return True
        self.skip(what, f"needs {size(needed)}, {size(free)} are free")
        return False

    def check(self, suite: str, bounds: Sequence[Mapping[str, Any]] = BOUNDS) -> None:
        """Marks each figure of a suite that has a bound as within it or outside."""
        rows = [row for row in self.measurements if row["suite"] == suite]
        for bound in (bound for bound in bounds if bound["suite"] == suite):
            values, unit = figures(rows, bound), bound.get("unit", "")
            relation = next(relation for relation in _HOLDS if relation in bound)
            for name, value in values.items():
                holds = _HOLDS[relation](value, bound[relation])  # never for NaN
                check = {"name": name, "value": value, "relation": relation}
                self.checks.append(check | {"bound": bound[relation], "unit": unit, "holds": holds})
                verdict = "holds" if holds else "DOES NOT HOLD"
                measured = f"{value:.3g} {unit}".rstrip()
                self.say(f"  {name}: {measured}, {relation} {bound[relation]:g}: {verdict}")
            if not values and "{" not in bound["check"]:
                why = "what it compares was not measured in this run"
                self.skip(f"check {bound['check']}", why)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        found = {name: value for name, value in self.__dict__.items() if name != "say"}
        return {"format": FORMAT, **found, "rates": self.rates and self.rates._asdict()}


def figures(rows: Sequence[Mapping[str, Any]], bound: Mapping[str, Any]) -> dict[str, float]:
    """What a bound of ``bounds.json`` is set on, by the name of the check.

    Args:
      rows: measurements of the bound's suite.
      bound: ``name`` and ``setting`` say which rows; ``figure`` which number of each, the median
        if absent, in ``unit``; it is divided by the least of those that ``over`` names, at the
        row's setting but for what ``over_setting`` changes; ``less`` is subtracted.
    """
    path = bound.get("figure", "seconds/median").split("/")

    def of(names: Sequence[str], setting: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Any]]:
        return [
            (row["setting"], reduce(operator.getitem, path, row))
            for row in rows
            if row["name"] in names and setting.items() <= row["setting"].items() and path[0] in row
        ]

    found = {}
    for setting, value in of([bound["name"]], bound.get("setting", {})):
        if "over" in bound:
            below = of(bound["over"], {**setting, **bound.get("over_setting", {})})
            if not below:
                continue
            value /= min(number for _, number in below)
        words = {key: str(part).replace(",", "").replace(" ", "_") for key, part in setting.items()}
        scaled = value / _UNITS[bound.get("unit", "")] - bound.get("less", 0)
        found[bound["check"].format(**words)] = scaled
    return found


class Suite:
    """Cases that take turns, each with the measurement that its samples complete."""

    def __init__(self) -> None:
        self.cases: dict[Case, Measurement] = {}
        # Of the cases so far, the most that a call will yet take and give back.
        self.temporaries = 0

    def add(self, measurement: Measurement, call: Call, program: Program | None = None) -> None:
        """Adds a case: a measurement without its timing, its call, and what that runs."""
        if program is not None:
            measurement = measurement.with_program(program)
            if program.memory is not None:
                self.temporaries = max(self.temporaries, program.memory.temporaries)
        name = f"{measurement.name} {sorted(measurement.setting.items())}"
        self.cases[Case(name, call)] = measurement

    def fits(self, report: Report, what: str, program: Program) -> bool:
        """Whether the state and temporaries of a compiled program find room beside the cases."""
        memory = program.memory
        return memory is None or report.has_room(
            what, memory.held + max(memory.temporaries, self.temporaries)
        )

    def run(self, report: Report, repetitions: int, calls: int = 1, profiled: bool = False) -> None:
        """Times all of them and reports them in the order in which they were added.

        Where it is `profiled`, the profiler then tells how long the device was busy in a call.
        """
        timings = take_turns(list(self.cases), repetitions, calls=calls)
        for case, measurement in self.cases.items():
            busy = busy_seconds(case.call) if profiled else None
            more = {} if busy is None else {"busy_seconds": busy}
            report.add(replace(measurement, timing=timings[case.name], more=more))


def in_milliseconds(seconds: float) -> str:
    """Three digits that count."""
    milliseconds = 1e3 * seconds
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def setting_text(setting: Mapping[str, Any]) -> str:
    """Such as ``16,384 slots, 512 tokens``."""
    return ", ".join(
        f"{value:,} {name.removeprefix('table_')}" if isinstance(value, int) else str(value)
        for name, value in setting.items()
    )


def line_of(row: Mapping[str, Any]) -> str:
    """A measurement in a line."""
    parts = [f"  {row['name']:<39} {setting_text(row['setting']):<26}"]
    for name, value in row.items():
        label = name.removesuffix("_bytes").removesuffix("_seconds").replace("_", " ")
        if name == "seconds":
            spread = " to ".join(map(in_milliseconds, value["quartiles"]))
            parts.append(f"{in_milliseconds(value['median']):>7} ms ({spread})")
        elif name == "memory":
            parts.append(f"temporaries {size(value['temporaries'])}")
        elif name.endswith("_seconds"):
            parts.append(f"{label} {in_milliseconds(value)} ms")
        elif name.startswith("share_of"):
            parts.append(f"{label} {value:.0%}")
        elif name.startswith("bytes_") or name.endswith("_bytes"):
            parts.append(f"{label} {size(value or 0)}")
        elif name not in ("suite", "name", "setting", "bytes", "operations", "flops") and value:
            kind = {float: ",.5g", int: ","}.get(type(value), "")
            parts.append(f"{label} {format(value, kind) if kind else value}")
    return "  ".join(parts)
