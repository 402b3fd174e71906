"""The memory block's step and its parts as contestants that share one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, get_args

import jax

from benchmarks import block
from benchmarks.block import Block
from benchmarks.costs import (
    Cost,
    after_cost,
    forward_cost,
    row_gradient_cost,
    select_cost,
    step_cost,
    write_cost,
)
from benchmarks.harness import compile_for, over_inputs
from benchmarks.suite import Field, entry
from smf_jax.shapes import Rows, SlotIds, Table
from smf_jax.sparse.accesses import Form
from smf_jax.sparse.rows import ReadTrace

SMF, AFTER = "smf", "after the forward"
FORMS: tuple[Form, ...] = get_args(Form)


class Holder:
    """A table that contestants share, and that some of them take over and put back."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def stepping(
        self, run: Callable[..., Any], inputs: Sequence[tuple[Any, ...]]
    ) -> Callable[[int], Any]:
        """A call that takes the state over and leaves the next."""

        def call(repetition: int) -> Any:
            self.state = run(self.state, *inputs[repetition % len(inputs)])
            return self.state

        return call

    def reading(
        self, run: Callable[..., Any], inputs: Sequence[tuple[Any, ...]]
    ) -> Callable[[int], Any]:
        """A call that reads the table."""
        return lambda repetition: run(self.state[0], *inputs[repetition % len(inputs)])


class Recorded(NamedTuple):
    """What one part of the step hands to the next, for every input.

    Attributes:
      traces: what was read, with its cotangents.
      selected: slots.
      rows: their gradients.
    """

    traces: list[ReadTrace]
    selected: list[SlotIds]
    rows: list[Rows]


def record(given: Block, table: Table) -> Recorded:
    """Runs the parts once for every input."""
    select = jax.jit(partial(block.select, given.shape))
    differentiate = jax.jit(partial(block.gradient_of_rows, given.shape))
    traces = list(block.traces(given, table))
    selected = [select(trace, given.usage) for trace in traces]
    rows = [differentiate(*pair) for pair in zip(traces, selected, strict=True)]
    return Recorded(traces, selected, rows)


def enter_parts(field: Field, suite: str, given: Block, holder: Holder) -> None:
    """Enters the step, what it begins with, what comes after, and the parts of that.

    What comes after is entered once more in each form of counting, forced.
    """
    shape, arguments = given.shape, given.arguments()
    traces, selected, rows = record(given, holder.state[0])
    ending = [(given.usage, trace) for trace in traces]

    def enter(
        name: str, function: Callable[..., Any], cost: Cost, inputs: Sequence[Any], how: str = ""
    ) -> None:
        takes = {"": (), "reads": (holder.state[0],), "writes": (holder.state,)}[how]
        donate = (0,) if how == "writes" else ()
        program = compile_for(function, *takes, *inputs[0], donate=donate)
        call = {"": over_inputs, "reads": holder.reading, "writes": holder.stepping}[how]
        field.enter(entry(suite, name, shape, cost), call(program.run, inputs), program)

    def forward(table: Any, params: Any, x: Any, upstream: Any) -> ReadTrace:
        return block.read_trace(given.layer, params, table, x, upstream)

    enter(SMF, partial(block.step, shape, given.layer), step_cost(shape), arguments, "writes")
    reading = [(params, x, upstream) for params, _, x, upstream in arguments]
    enter("forward and back to the read", forward, forward_cost(shape), reading, "reads")
    enter(AFTER, partial(block.after, shape), after_cost(shape), ending, "writes")
    for form in FORMS:
        with block.forced(form):
            name, after = f"{AFTER}, {form} form", partial(block.after, shape)
            enter(name, after, after_cost(shape), ending, "writes")
    ranking = [(trace, given.usage) for trace in traces]
    enter("count and select", partial(block.select, shape), select_cost(shape), ranking)
    pairs = list(zip(traces, selected, strict=True))
    differentiate = partial(block.gradient_of_rows, shape)
    enter("row gradient", differentiate, row_gradient_cost(shape), pairs)
    writing = list(zip(selected, rows, strict=True))
    enter("update and write", block.write, write_cost(shape), writing, "writes")
