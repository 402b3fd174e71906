"""What a benchmark leaves: measurements, checks of what must hold, and what was left out."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.costs import Cost
from benchmarks.harness import Program, ProgramMemory, Timing
from benchmarks.machine import Rates

FORMAT = 1
Relation = Literal["at most", "at least"]
# What a line tells in words of its own, or not at all.
_TOLD = {"suite", "name", "setting", "seconds", "bytes", "operations", "floor_seconds", "memory"}
_TOLD |= {"share_of_copy_bandwidth", "share_of_matmul_rate", "compile_seconds", "flops"}
_HOLDS = {"at most": operator.le, "at least": operator.ge}


@dataclass(frozen=True)
class Measurement:
    """One contestant at one setting.

    Attributes:
      suite: that measured it.
      name: of the contestant; equal names are one curve of a picture.
      setting: shapes, such as ``table_slots``.
      timing: ``None`` where nothing ran, such as a compilation for a machine that is not there.
      cost: counted from the algorithm.
      compile_seconds: of tracing and compiling.
      memory: of the compiled program.
      peak_bytes: the most memory that a process with nothing else in it held, or a device.
      more: further figures by name.
    """

    suite: str
    name: str
    setting: Mapping[str, Any]
    timing: Timing | None = None
    cost: Cost | None = None
    compile_seconds: float | None = None
    memory: ProgramMemory | None = None
    peak_bytes: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def with_program(self, program: Program) -> Measurement:
        """The same with what compiling it told."""
        changes = {"compile_seconds": program.compile_seconds, "memory": program.memory}
        return Measurement(**{**self.__dict__, **changes})

    def to_dict(self, rates: Rates | None) -> dict[str, Any]:
        """As JSON values; shares and floors need the machine's rates."""
        row: dict[str, Any] = {"suite": self.suite, "name": self.name, "setting": {**self.setting}}
        if self.timing is not None:
            low, high = self.timing.quartiles
            row["seconds"] = {
                "median": self.timing.median,
                "quartiles": [low, high],
                "least": min(self.timing.samples),
                "samples": len(self.timing.samples),
            }
        if self.cost is not None:
            row["bytes"], row["operations"] = self.cost
            if rates is not None:
                row["floor_seconds"] = self.cost.floor_seconds(rates)
        if self.cost is not None and self.timing is not None and rates is not None:
            seconds = self.timing.median
            row["share_of_copy_bandwidth"] = self.cost.bytes / seconds / rates.copy_bytes
            row["share_of_matmul_rate"] = self.cost.operations / seconds / rates.operations
        for name in ("compile_seconds", "peak_bytes"):
            if getattr(self, name) is not None:
                row[name] = getattr(self, name)
        if self.memory is not None:
            row["memory"] = {**self.memory._asdict(), "total": self.memory.total}
        return row | dict(self.more)


@dataclass(frozen=True)
class Check:
    """A figure that must keep to a bound.

    Attributes:
      name: what is checked.
      value: measured.
      relation: of the value to the bound.
      bound: that it must keep to.
      unit: of both; empty for ratios.
    """

    name: str
    value: float
    relation: Relation
    bound: float
    unit: str = ""

    @property
    def holds(self) -> bool:
        """Whether it does; never for NaN."""
        return bool(_HOLDS[self.relation](self.value, self.bound))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**self.__dict__, "holds": self.holds}

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        verdict = "holds" if self.holds else "DOES NOT HOLD"
        return f"{self.name}: {self.value:.3g}{unit}, {self.relation} {self.bound:g}: {verdict}"


@dataclass
class Report:
    """Collects what the suites find, and tells it as it comes.

    Attributes:
      machine: from `describe_machine`.
      flags: of the command.
      say: prints a line.
      rates: of the machine; ``None`` where nothing runs on it.
      measurements: so far.
      checks: so far.
      skipped: what was left out, and why.
    """

    machine: dict[str, Any]
    flags: dict[str, Any]
    say: Callable[[str], None]
    rates: Rates | None = None
    measurements: list[Measurement] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)

    def add(self, measurement: Measurement) -> Measurement:
        """Keeps a measurement and prints it."""
        self.measurements.append(measurement)
        self.say(_line(measurement.to_dict(self.rates)))
        return measurement

    def check(
        self, name: str, value: float, relation: Relation, bound: float, unit: str = ""
    ) -> None:
        """Keeps a check and prints it."""
        self.checks.append(Check(name, float(value), relation, bound, unit))
        self.say(f"  {self.checks[-1]}")

    def skip(self, what: str, reason: str) -> None:
        """Keeps and prints what is left out, and why."""
        self.skipped.append({"what": what, "reason": reason})
        self.say(f"  skipped {what}: {reason}")

    def median(self, suite: str, name: str, **setting: Any) -> float | None:
        """The median of the first measurement of that name whose setting has these values."""
        for each in self.measurements:
            named = (each.suite, each.name) == (suite, name)
            if named and each.timing and setting.items() <= dict(each.setting).items():
                return each.timing.median
        return None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        rates = None if self.rates is None else self.rates._asdict()
        return {
            "format": FORMAT,
            "flags": self.flags,
            "machine": self.machine,
            "rates": rates,
            "measurements": [each.to_dict(self.rates) for each in self.measurements],
            "checks": [each.to_dict() for each in self.checks],
            "skipped": self.skipped,
        }


def in_milliseconds(seconds: float) -> str:
    """Three digits that count."""
    milliseconds = 1e3 * seconds
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def in_bytes(count: float) -> str:
    """In the largest unit that leaves a number of at least one."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def setting_text(setting: Mapping[str, Any]) -> str:
    """Such as ``16,384 slots, 512 tokens``."""
    return ", ".join(
        f"{value:,} {name.removeprefix('table_')}" if isinstance(value, int) else str(value)
        for name, value in setting.items()
    )


def _line(row: Mapping[str, Any]) -> str:
    parts = [f"  {row['name']:<39} {setting_text(row['setting']):<26}"]
    if "seconds" in row:
        low, high = (in_milliseconds(seconds) for seconds in row["seconds"]["quartiles"])
        parts.append(f"{in_milliseconds(row['seconds']['median']):>7} ms ({low} to {high})")
    if "share_of_copy_bandwidth" in row:
        copy, multiply = row["share_of_copy_bandwidth"], row["share_of_matmul_rate"]
        floor = in_milliseconds(row["floor_seconds"])
        parts.append(f"floor {floor}, copy {copy:.0%}, matmul {multiply:.0%}")
    if "memory" in row:
        parts.append(f"temporaries {in_bytes(row['memory']['temporaries'])}")
    if "compile_seconds" in row:
        parts.append(f"compiled in {row['compile_seconds']:.1f} s")
    parts += [_further(name, value) for name, value in row.items() if name not in _TOLD and value]
    return "  ".join(parts)


def _further(name: str, value: Any) -> str:
    label = name.replace("_", " ")
    if isinstance(value, Mapping):
        return f"{label} " + ", ".join(f"{count} {kind}" for kind, count in value.items())
    if "bytes" in name:
        return f"{label.removesuffix(' bytes')} {in_bytes(value)}"
    if name.endswith("_seconds"):
        return f"{label.removesuffix(' seconds')} {in_milliseconds(value)} ms"
    return f"{label} {value:,}"
