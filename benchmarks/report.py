"""What a benchmark leaves: measurements, which of them keep to their bounds, and their tables."""

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.costs import Cost
from benchmarks.harness import Call, Holder, Inputs, Program, compile_for, take_turns
from benchmarks.machine import Rates, free_bytes, machine_line
from experiments.report.tables import markdown_table, size

Row = Mapping[str, Any]
FORMAT = 1
BOUNDS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "bounds.json").read_text())
_HOLDS = {"at most": operator.le, "at least": operator.ge}
_UNITS = {"": 1.0, "ms": 1e-3, "GiB": 2.0**30, "MB": 1e6}
_SHARE = 0.85  # of the free memory, what a suite may plan to use
_EMPTY = Holder()


class Entry(NamedTuple):
    """A case of a suite at one setting (shapes, such as ``table_slots``), with what it needs."""

    suite: str
    name: str
    setting: Row
    cost: Cost | None = None
    program: Program | None = None


@dataclass
class Report:
    """Collects what the suites find, as JSON values, and says it as it comes."""

    machine: dict[str, Any]
    flags: dict[str, Any]
    say: Callable[[str], None]
    rates: Rates | None = None
    measurements: list[dict[str, Any]] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)

    def add(self, entry: Entry, seconds: Sequence[float] | None = None, **more: Any) -> None:
        """Keeps and prints a case with its samples in seconds a call and other figures."""
        row = {"suite": entry.suite, "name": entry.name, "setting": {**entry.setting}}
        median = None
        if seconds is not None:
            median, quartiles = float(np.median(seconds)), np.percentile(seconds, (25, 75)).tolist()
            spread = {"median": median, "quartiles": quartiles, "least": min(seconds)}
            row["seconds"] = {**spread, "samples": len(seconds)}
        if entry.cost is not None:
            row["bytes"], row["operations"] = entry.cost
            if self.rates is not None:
                row["floor_seconds"] = entry.cost.floor_seconds(self.rates)
                if median is not None:
                    moved, operations = (needed / median for needed in entry.cost)
                    row["share_of_copy_bandwidth"] = moved / self.rates.copy_bytes
                    row["share_of_matmul_rate"] = operations / self.rates.operations
        if entry.program is not None:
            _, row["compile_seconds"], row["memory"] = entry.program
        self.measurements.append(row | more)
        self.say(line_of(row | more))

    def skip(self, what: str, reason: str) -> None:
        self.skipped.append({"what": what, "reason": reason})
        self.say(f"  skipped {what}: {reason}")

    def has_room(self, what: str, needed: float) -> bool:
        """Whether so many bytes are free; if not, what needs them is left out."""
        free = free_bytes()
        if free is None or needed <= _SHARE * free:
            return True
        self.skip(what, f"needs {size(needed)}, {size(free)} are free")
        return False

    def check(self, suite: str, bounds: Sequence[Row] = BOUNDS) -> None:
        """Marks each figure of a suite that has a bound as within it or outside."""
        rows = [row for row in self.measurements if row["suite"] == suite]
        for bound in (bound for bound in bounds if bound["suite"] == suite):
            values, unit = figures(rows, bound), bound.get("unit", "")
            relation = next(relation for relation in _HOLDS if relation in bound)
            for name, value in values.items():
                holds = _HOLDS[relation](value, bound[relation])  # never for NaN
                check = {"name": name, "value": value, "relation": relation}
                self.checks.append(check | {"bound": bound[relation], "unit": unit, "holds": holds})
                _, measured, expected, _ = _cells(self.checks[-1])
                verdict = "holds" if holds else "DOES NOT HOLD"
                self.say(f"  {name}: {measured}, {expected}: {verdict}")
            if not values and "{" not in bound["check"]:
                reason = "what it compares was not measured in this run"
                self.skip(f"check {bound['check']}", reason)

    def to_dict(self) -> dict[str, Any]:
        found = {name: value for name, value in self.__dict__.items() if name != "say"}
        return {"format": FORMAT, **found, "rates": self.rates and self.rates._asdict()}


def figures(rows: Sequence[Row], bound: Row) -> dict[str, float]:
    """What a bound of ``bounds.json`` is set on, by the name of the check.

    ``name`` and ``setting`` say which rows of the suite; ``figure`` which number of each, the
    median if absent, in ``unit``; it is divided by the least of those that ``over`` names, at the
    row's setting but for what ``over_setting`` changes; ``less`` is subtracted.
    """
    path = bound.get("figure", "seconds/median").split("/")

    def of(names: Sequence[str], setting: Row) -> list[tuple[Row, Any]]:
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
    """Cases that take turns, each with the entry that its samples complete."""

    def __init__(self) -> None:
        self.cases: dict[str, tuple[Entry, Call]] = {}

    def add(self, entry: Entry, call: Call) -> None:
        name = f"{entry.name} {sorted(entry.setting.items())}"
        if name in self.cases:
            raise ValueError(f"the suite has a case {name}; give this one a name of its own")
        self.cases[name] = entry, call

    def compile(
        self, entry: Entry, function: Any, inputs: Inputs, how: str = "", holder: Holder = _EMPTY
    ) -> Program:
        """Compiles a function of what the holder gives and of inputs, and adds it as a case."""
        donate = (0,) if how == "writes" else ()
        program = compile_for(function, *holder.given(how), *inputs[0], donate=donate)
        self.add(entry._replace(program=program), holder.call(program.run, inputs, how))
        return program

    def fits(self, report: Report, entry: Entry) -> bool:
        """Whether the state and temporaries of a compiled program find room beside the cases."""
        entries = (entry, *(each for each, _ in self.cases.values()))
        memories = [each.program.memory for each in entries if each.program]
        # Calls run one after another: the largest temporaries of all are what has to be free.
        held = memories[0]["total"] - memories[0]["temporaries"]
        needed = held + max(memory["temporaries"] for memory in memories)
        what = f"{entry.suite}, {entry.name}, {setting_text(entry.setting)}"
        return report.has_room(what, needed)

    def run(self, report: Report, repetitions: int, calls: int = 1) -> None:
        calling = {name: call for name, (_, call) in self.cases.items()}
        timings = take_turns(calling, repetitions, calls=calls)
        for name, (entry, _) in self.cases.items():
            report.add(entry, timings[name])


def in_milliseconds(seconds: float) -> str:
    """Three digits that count."""
    return f"{1e3 * seconds:,.0f}" if 1e3 * seconds >= 100 else f"{1e3 * seconds:.3g}"


def setting_text(setting: Row) -> str:
    """Such as ``16,384 slots, 512 tokens``."""
    return ", ".join(
        f"{value:,} {name.removeprefix('table_')}" if isinstance(value, int) else str(value)
        for name, value in setting.items()
    )


def line_of(row: Row) -> str:
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


def markdown(result: Row) -> str:
    """The whole of a result, as `Report.to_dict` gives it or JSON holds it."""
    parts = [machine_line(result["machine"]) + "."]
    if result["rates"]:
        parts[0] += f" It {Rates(**result['rates'])}."
    for suite in dict.fromkeys(row["suite"] for row in result["measurements"]):
        rows = [row for row in result["measurements"] if row["suite"] == suite]
        lines = "\n".join(["```", *map(line_of, rows), "```"])
        parts += [f"### {suite}", growth_table(rows), lines]
    if result["checks"]:
        parts += ["### Must hold", check_table(result["checks"])]
    if result["skipped"]:
        parts.append("\n".join(f"* left out {s['what']}: {s['reason']}" for s in result["skipped"]))
    return "\n\n".join(filter(None, parts)) + "\n"


def growth_table(rows: Sequence[Row]) -> str:
    """Milliseconds, a line a case and a column a number of table slots; empty if there is one."""
    curves: dict[str, dict[int, str]] = {}
    for row in rows:
        rest = {k: v for k, v in row["setting"].items() if k not in ("table_slots", "tokens")}
        if "table_slots" in row["setting"] and "seconds" in row:
            name = ", ".join(filter(None, (row["name"], setting_text(rest))))
            cell = in_milliseconds(row["seconds"]["median"])
            curves.setdefault(name, {}).setdefault(row["setting"]["table_slots"], cell)
    slots = sorted(set().union(*curves.values()))
    if len(slots) < 2:
        return ""
    lines = [[name, *(curve.get(n, "") for n in slots)] for name, curve in curves.items()]
    return markdown_table(["ms a call, at table slots", *(f"{n:,}" for n in slots)], lines)


def check_table(checks: Sequence[Row]) -> str:
    """Every check with its bound."""
    return markdown_table(("", "measured", "bound", "holds"), list(map(_cells, checks)))


def _cells(check: Row) -> tuple[str, ...]:
    measured = f"{check['value']:.3g} {check['unit']}".rstrip()
    verdict = "yes" if check["holds"] else "**no**"
    return check["name"], measured, f"{check['relation']} {check['bound']:g}", verdict
