"""Suite ``step``: a training step of the memory block alone, its parts, and other ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, get_args

import jax
import numpy as np
import optax

from benchmarks import block, costs, torch_twin
from benchmarks.block import ADAM, MASKED, SMF, Block, abstract_table, make_block, ways
from benchmarks.costs import BlockShape, Cost
from benchmarks.flags import BenchmarkConfig
from benchmarks.harness import Holder, compile_for, over_inputs
from benchmarks.machine import usable_cores
from benchmarks.report import Measurement, Report, Suite
from benchmarks.resident import ask_child
from smf_jax.params import count_bytes
from smf_jax.sparse.accesses import Form
from smf_jax.sparse.row_optimizer import create_store
from smf_jax.sparse.rows import row_gradient

SUITE = "step"
TORCH = "torch EmbeddingBag(sparse=True), SGD"
AFTER = "after the forward"
FORMS: tuple[Form, ...] = get_args(Form)
# Processes that measure peak memory have this many table slots, or the most below.
PEAK_SLOTS = 2**20
# Steps of a task, of the store that Adam's moments of rows would need.
_TASK_STEPS = 30
# One float32 product of ten thousands of terms against another.
_TOLERANCE = 1e-3


def run(flags: BenchmarkConfig, report: Report) -> None:
    """The step and its parts over all table slots, then against the other ways, then peaks."""
    suite, shapes = Suite(), []
    for shape in flags.blocks():
        if report.has_room(f"{SUITE} at {shape.slots:,} table slots", shape.table_bytes):
            shapes.append(shape)
            given = make_block(shape)
            add_parts(suite, SUITE, given, Holder(given.begin(given.table())))
    suite.run(report, flags.repetitions)
    del suite  # and its tables
    for shape in shapes:
        # Smf again, in turns with the others: a ratio is of times that were taken in turns.
        suite, given = Suite(), make_block(shape)
        _add_way(suite, report, given, SMF, f"{SMF}, beside the dense ways", costs.step_cost(shape))
        _add_way(suite, report, given, MASKED, MASKED, costs.dense_step_cost(shape, states=0))
        _add_way(suite, report, given, ADAM, ADAM, costs.dense_step_cost(shape, states=2))
        suite.run(report, flags.repetitions)
        del suite
        if flags.torch:
            suite = Suite()
            if _add_torch(suite, report, given):
                _add_way(suite, report, given, SMF, f"{SMF}, beside torch", costs.step_cost(shape))
                suite.run(report, flags.repetitions)
            del suite
    if flags.peak and jax.default_backend() == "cpu":
        take_peaks(flags, report, shapes)
    for shape in shapes:
        _tell_store(report, shape)


def add_parts(suite: Suite, of: str, given: Block, holder: Holder) -> None:
    """Adds the step, what it begins with, what comes after, and the parts of that, on one table.

    What comes after is added once more in each form of counting, forced.
    """
    shape, usage = given.shape, given.usage
    forward = lambda table, *inputs: block.read_trace(given.layer, inputs[0], table, *inputs[1:])  # noqa: E731
    reading = [(params, x, upstream) for params, _, x, upstream in given.arguments()]
    select = lambda trace, usage: block.select(shape, trace.slots, usage)  # noqa: E731
    differentiate = lambda trace, selected: row_gradient([trace], selected, shape.slots)  # noqa: E731
    traces = [jax.jit(forward)(holder.state[0], *inputs) for inputs in reading]
    selected = [jax.jit(select)(trace, usage) for trace in traces]
    pairs = list(zip(traces, selected, strict=True))
    rows = [jax.jit(differentiate)(*pair) for pair in pairs]

    def add(
        name: str, function: Callable[..., Any], cost: Cost, inputs: Sequence[Any], how: str = ""
    ) -> None:
        takes = {"": (), "reads": (holder.state[0],), "writes": (holder.state,)}[how]
        call = {"": over_inputs, "reads": holder.reading, "writes": holder.stepping}[how]
        donate = (0,) if how == "writes" else ()
        program = compile_for(function, *takes, *inputs[0], donate=donate)
        measurement = Measurement(of, name, shape.setting, cost=cost)
        suite.add(measurement, call(program.run, inputs), program)

    step, after = partial(block.step, shape, given.layer), partial(block.after, shape)
    add(SMF, step, costs.step_cost(shape), given.arguments(), "writes")
    add("forward and back to the read", forward, costs.forward_cost(shape), reading, "reads")
    ending = [(usage, trace) for trace in traces]
    add(AFTER, after, costs.after_cost(shape), ending, "writes")
    for form in FORMS:
        with block.forced(form):
            add(f"{AFTER}, {form} form", after, costs.after_cost(shape), ending, "writes")
    ranking = [(trace, usage) for trace in traces]
    add("count and select", select, costs.select_cost(shape), ranking)
    add("row gradient", differentiate, costs.row_gradient_cost(shape), pairs)
    writing = list(zip(selected, rows, strict=True))
    add("update and write", block.write, costs.write_cost(shape), writing, "writes")


def _add_way(suite: Suite, report: Report, given: Block, way: str, name: str, cost: Cost) -> None:
    """Adds one of our own ways to train the block, where there is memory for it."""
    shape, (start, run) = given.shape, ways(given)[way]
    state = jax.eval_shape(start, abstract_table(shape))
    program = compile_for(run, state, *given.arguments()[0], donate=(0,))
    if suite.fits(report, f"{SUITE}, {name}, at {shape.slots:,} table slots", program):
        holder = Holder(jax.block_until_ready(start(given.table())))
        call = holder.stepping(program.run, given.arguments())
        suite.add(Measurement(SUITE, name, shape.setting, cost=cost), call, program)


def _add_torch(suite: Suite, report: Report, given: Block) -> bool:
    """Adds PyTorch's block, once its output has been found to be the same; whether it did."""
    shape = given.shape
    what = f"{SUITE}, {TORCH}, at {shape.slots:,} table slots"
    if not torch_twin.is_installed():
        report.skip(what, "torch is not installed")
        return False
    # Its table is made from another, which is given back before anything runs.
    if not report.has_room(what, 2 * shape.table_bytes):
        return False
    table = given.table()
    inputs = [(x[0], upstream[0]) for x, upstream in given.inputs]
    theirs = torch_twin.TorchBlock(
        sizes_of(shape), np.array(table), given.params, inputs, block.LEARNING_RATE, usable_cores()
    )
    ours = jax.jit(given.layer.apply)({"params": given.params}, given.inputs[0][0], table)[0]
    tolerance = _TOLERANCE * float(abs(ours).max())
    found = theirs.output(0).detach().numpy()
    np.testing.assert_allclose(found, ours, rtol=0, atol=tolerance, err_msg="PyTorch's block")
    measurement = Measurement(SUITE, TORCH, shape.setting, cost=costs.step_cost(shape))
    suite.add(measurement, theirs)
    return True


def sizes_of(shape: BlockShape) -> torch_twin.Sizes:
    """The block's sizes as plain numbers."""
    of = shape.memory
    return torch_twin.Sizes(
        shape.slots, shape.tokens, shape.width, of.heads, of.reads, of.key_width
    )


def take_peaks(
    flags: BenchmarkConfig,
    report: Report,
    shapes: Sequence[BlockShape],
    ask: Callable[[str, dict[str, Any]], dict[str, Any]] = ask_child,
) -> None:
    """The peak memory of every way, each in a process of its own."""
    shape = max((s for s in shapes if s.slots <= PEAK_SLOTS), key=lambda s: s.slots, default=None)
    if shape is None:
        report.skip(f"{SUITE}, peak memory", f"needs at most {PEAK_SLOTS:,} table slots")
        return
    fields = {**shape.__dict__, "memory": shape.memory.to_dict()}
    children = {
        way: ("benchmarks.block", {"shape": fields, "way": way}) for way in (SMF, MASKED, ADAM)
    }
    if flags.torch and torch_twin.is_installed():
        task = {"sizes": sizes_of(shape)._asdict(), "threads": usable_cores()}
        children[TORCH] = ("benchmarks.torch_twin", task)
    for way, (module, task) in children.items():
        what, tables = f"{SUITE}, peak memory of {way}", 8 if way in (MASKED, ADAM) else 2
        if not report.has_room(what, tables * shape.table_bytes):
            continue
        try:
            peak = ask(module, task)["peak_bytes"]
        except ValueError as error:
            report.skip(what, str(error))
            continue
        table = shape.table_bytes
        more = {"peak_bytes": peak, "table_bytes": table, "above_table_bytes": peak - table}
        name = f"peak of {way}"
        report.add(Measurement(SUITE, name, shape.setting, more=more))


def _tell_store(report: Report, shape: BlockShape) -> None:
    """What trains and what the optimizers hold: under SGD, and under Adam with its store."""
    capacity = min(shape.slots, _TASK_STEPS * block.static_size(shape))
    table = abstract_table(shape)
    held = {
        name: count_bytes(
            jax.eval_shape(partial(create_store, optimizer, capacity=capacity), table)
        )
        for name, optimizer in (("sgd", optax.sgd(1.0)), ("adam", optax.adam(1.0)))
    }
    trained = shape.selected * shape.memory.value_width * table.dtype.itemsize
    more = {
        "trained_bytes": trained,
        "sgd_state_bytes": held["sgd"],
        "adam_state_bytes": held["adam"],
        "adam_store_capacity": capacity,
        "dense_trained_bytes": shape.table_bytes,
        "dense_adam_state_bytes": 2 * shape.slots * shape.memory.value_width * 4,
        "dense_over_smf_trained": shape.table_bytes / (trained + held["sgd"]),
    }
    report.add(Measurement(SUITE, "trained, and optimizer state", shape.setting, more=more))
