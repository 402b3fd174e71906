"""What suites share: fitting tables into memory, and turning samples into measurements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.costs import BlockShape, Cost
from benchmarks.harness import Contestant, Program, take_turns
from benchmarks.machine import free_bytes
from benchmarks.results import Measurement, Report, in_bytes

# Of the free memory, what a suite may plan to use.
_SHARE = 0.85
# What a process holds beside its tables.
_BESIDE = 2**29


class Field:
    """Contestants that take turns, each with the measurement that its samples complete."""

    def __init__(self) -> None:
        self._contestants: list[Contestant] = []
        self._measurements: dict[str, Measurement] = {}
        # Of what has entered, the most that a call will yet take and give back.
        self.temporaries = 0

    def enter(
        self,
        measurement: Measurement,
        call: Callable[[int], Any],
        program: Program | None = None,
        **contestant: Any,
    ) -> None:
        """Adds a contestant.

        Args:
          measurement: without its timing.
          call: as of `Contestant`.
          program: what the call runs, for its memory and the time it took to compile.
          **contestant: further fields of `Contestant`.
        """
        if program is not None:
            measurement = measurement.with_program(program)
            if program.memory is not None:
                self.temporaries = max(self.temporaries, program.memory.temporaries)
        name = f"{measurement.name} {sorted(measurement.setting.items())}"
        self._contestants.append(Contestant(name, call, **contestant))
        self._measurements[name] = measurement

    def calls(self) -> list[Callable[[int], Any]]:
        """The calls of all contestants, in the order in which they entered."""
        return [contestant.call for contestant in self._contestants]

    def run(self, report: Report, repetitions: int, calls: int = 1) -> None:
        """Times all of them and reports them in the order in which they entered."""
        timings = take_turns(self._contestants, repetitions, calls=calls)
        for name, measurement in self._measurements.items():
            report.add(Measurement(**{**measurement.__dict__, "timing": timings[name]}))


def setting_of(shape: BlockShape) -> dict[str, Any]:
    """What tells a block's measurements from those of others."""
    return {"table_slots": shape.slots, "tokens": shape.tokens}


def entry(suite: str, name: str, shape: BlockShape, cost: Cost | None = None) -> Measurement:
    """A measurement of a block, yet to be taken."""
    return Measurement(suite, name, setting_of(shape), cost=cost)


def that_fit(
    report: Report,
    suite: str,
    shapes: Sequence[BlockShape],
    tables: float,
    together: bool = True,
) -> list[BlockShape]:
    """The shapes whose tables fit into the free memory; the others are reported as left out.

    Args:
      report: told what is left out.
      suite: that asks.
      shapes: ascending.
      tables: how many arrays of a table's size each needs.
      together: whether all are held at once.
    """
    free, held, fitting = free_bytes(), 0.0, []
    for shape in shapes:
        needed = tables * shape.table_bytes
        if free is not None and held + needed + _BESIDE > _SHARE * free:
            report.skip(
                f"{suite} at {shape.slots:,} table slots",
                f"needs {in_bytes(held + needed)}, {in_bytes(free)} are free",
            )
            continue
        held += needed if together else 0
        fitting.append(shape)
    return fitting


def fits(report: Report, field: Field, what: str, program: Program) -> bool:
    """Whether a compiled program's state and temporaries find memory beside those that entered.

    Args:
      report: told what is left out.
      field: that the program is to enter.
      what: it is called.
      program: compiled; its arguments do not exist yet.
    """
    if program.memory is None:
        return True
    memory = program.memory
    held = memory.arguments + memory.outputs - memory.aliased
    return room_for(report, what, held + max(memory.temporaries, field.temporaries))


def room_for(report: Report, what: str, needed: float) -> bool:
    """Whether so many bytes are free; if not, what needs them is left out."""
    free = free_bytes()
    if free is None or needed <= _SHARE * free:
        return True
    report.skip(what, f"needs {in_bytes(needed)}, {in_bytes(free)} are free")
    return False


def ratio(above: float | None, below: float | None) -> float | None:
    """``above / below`` where both were measured."""
    return None if above is None or below is None else above / below


def check_ratio(
    report: Report, name: str, value: float | None, relation: Any, bound: float, unit: str = ""
) -> None:
    """Checks what was measured, and says so where it was not."""
    if value is None:
        report.skip(f"check {name}", "what it compares was not measured in this run")
    else:
        report.check(name, value, relation, bound, unit)
