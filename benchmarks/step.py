"""Suite ``step``: a training step of the memory block alone, its parts, and other ways."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from benchmarks import block, torch_block
from benchmarks.block import Block, make_block, random_table
from benchmarks.costs import BlockShape, Cost, dense_step_cost, step_cost
from benchmarks.flags import BenchmarkFlags
from benchmarks.harness import Stepper, compile_for
from benchmarks.machine import usable_cores
from benchmarks.parts import SMF, Holder, enter_parts
from benchmarks.peak import ways
from benchmarks.resident import peak_of
from benchmarks.results import Measurement, Report
from benchmarks.step_checks import check_step
from benchmarks.suite import Field, entry, fits, room_for, setting_of, that_fit
from benchmarks.verify import verify_block
from smf_jax.params import count_bytes
from smf_jax.sparse.row_optimizer import create_store

SUITE = "step"
TORCH = "torch EmbeddingBag(sparse=True), SGD"
MASKED, ADAM = "dense gradient, masked", "dense gradient, Adam"
# Smf again, in turns with the others: a ratio is of times that were taken in turns.
BESIDE_DENSE, BESIDE_TORCH = "smf, beside the dense ways", "smf, beside torch"
# Processes that measure peak memory have this many table slots, or the most below.
PEAK_SLOTS = 2**20
# Steps of a task, of the store that Adam's moments of rows would need.
_TASK_STEPS = 30
# One float32 product of ten thousands of terms against another.
_TOLERANCE = 1e-3


def run(flags: BenchmarkFlags, report: Report) -> None:
    """The step and its parts over all table slots, then against the other ways, then peaks."""
    shapes = that_fit(report, SUITE, flags.blocks(), tables=1)
    if shapes:
        given = make_block(shapes[0])
        width = shapes[0].memory.value_width
        verify_block(given, random_table(shapes[0].slots, width, shapes[0].table_dtype))
    _time_parts(flags, report, shapes)
    for shape in shapes:
        _time_dense(flags, report, shape)
        if flags.torch:
            _time_torch(flags, report, shape)
    if flags.peak and jax.default_backend() == "cpu":
        _take_peaks(flags, report, shapes)
    _tell_store(report, shapes)
    check_step(report)


def _time_parts(flags: BenchmarkFlags, report: Report, shapes: Sequence[BlockShape]) -> None:
    """The step and its parts, all table slots in turns."""
    field = Field()
    for shape in shapes:
        given = make_block(shape)
        table = random_table(shape.slots, shape.memory.value_width, shape.table_dtype)
        enter_parts(field, SUITE, given, Holder((table, given.store(table))))
        del table
    field.run(report, flags.repetitions)


def _time_dense(flags: BenchmarkFlags, report: Report, shape: BlockShape) -> None:
    """The step against the dense ways, in turns, each with a table of its own."""
    field, given = Field(), make_block(shape)
    _enter_way(field, report, given, SMF, BESIDE_DENSE, step_cost(shape))
    _enter_way(field, report, given, MASKED, MASKED, dense_step_cost(shape, states=0))
    _enter_way(field, report, given, ADAM, ADAM, dense_step_cost(shape, states=2))
    field.run(report, flags.repetitions)


def _time_torch(flags: BenchmarkFlags, report: Report, shape: BlockShape) -> None:
    """The step against PyTorch's, in turns, and nobody else between them."""
    field, given = Field(), make_block(shape)
    _enter_torch(field, report, given)
    if field.calls():
        _enter_way(field, report, given, SMF, BESIDE_TORCH, step_cost(shape))
        field.run(report, flags.repetitions)


def _enter_way(field: Field, report: Report, given: Block, way: str, name: str, cost: Cost) -> None:
    """Enters one of our own ways to train the block, where there is memory for it."""
    shape, (start, step) = given.shape, ways(given)[way]
    width = shape.memory.value_width
    state = jax.eval_shape(start, jax.ShapeDtypeStruct((shape.slots, width), shape.table_dtype))
    program = compile_for(step, state, *given.arguments()[0], donate=(0,))
    if not fits(report, field, f"{SUITE}, {name}, at {shape.slots:,} table slots", program):
        return
    table = random_table(shape.slots, width, shape.table_dtype)
    stepper = Stepper(program.run, jax.block_until_ready(start(table)), given.arguments())
    field.enter(entry(SUITE, name, shape, cost), stepper, program)


def _enter_torch(field: Field, report: Report, given: Block) -> None:
    """Enters PyTorch's block, once its output has been found to be the same."""
    shape = given.shape
    what = f"{SUITE}, {TORCH}, at {shape.slots:,} table slots"
    if not torch_block.is_installed():
        report.skip(what, "torch is not installed")
        return
    # Its table is made from another, which is given back before anything runs.
    if not room_for(report, what, shape.table_bytes + max(shape.table_bytes, field.temporaries)):
        return
    table = random_table(shape.slots, shape.memory.value_width, shape.table_dtype)
    theirs = torch_block.TorchBlock(
        sizes_of(shape),
        np.array(table),
        given.params,
        [(x[0], upstream[0]) for x, upstream in given.inputs],
        block.LEARNING_RATE,
        usable_cores(),
    )
    ours = np.asarray(
        jax.jit(given.layer.apply)({"params": given.params}, given.inputs[0][0], table)
    )[0]
    difference = np.abs(theirs.output(0).detach().numpy() - ours)
    if not difference.max() <= _TOLERANCE * np.abs(ours).max():
        raise RuntimeError(
            f"PyTorch's block differs from this one by {difference.max():.2g}: it computes "
            "something else, so its time says nothing"
        )
    measurement = entry(SUITE, TORCH, shape, step_cost(shape))
    field.enter(measurement, theirs, wait=lambda done: done)


def sizes_of(shape: BlockShape) -> torch_block.Sizes:
    """The block's sizes as plain numbers."""
    memory = shape.memory
    return torch_block.Sizes(
        shape.slots, shape.tokens, shape.width, memory.heads, memory.reads, memory.key_width
    )


def _take_peaks(flags: BenchmarkFlags, report: Report, shapes: Sequence[BlockShape]) -> None:
    """The peak memory of every way, each in a process of its own."""
    shape = max((s for s in shapes if s.slots <= PEAK_SLOTS), key=lambda s: s.slots, default=None)
    if shape is None:
        report.skip(f"{SUITE}, peak memory", f"needs at most {PEAK_SLOTS:,} table slots")
        return
    fields = {**shape.__dict__, "memory": shape.memory.to_dict()}
    children: dict[str, tuple[str, dict[str, Any]]] = {
        way: ("benchmarks.peak", {"shape": fields, "way": way}) for way in (SMF, MASKED, ADAM)
    }
    if flags.torch and torch_block.is_installed():
        task = {"sizes": sizes_of(shape)._asdict(), "threads": usable_cores()}
        children[TORCH] = ("benchmarks.torch_block", task)
    for way, (module, task) in children.items():
        what, tables = f"{SUITE}, peak memory of {way}", 8 if way in (MASKED, ADAM) else 2
        if not room_for(report, what, tables * shape.table_bytes):
            continue
        try:
            peak = peak_of(module, task)
        except ValueError as error:
            report.skip(what, str(error))
            continue
        more = {"table_bytes": shape.table_bytes}
        report.add(
            Measurement(SUITE, f"peak of {way}", setting_of(shape), peak_bytes=peak, more=more)
        )


def _tell_store(report: Report, shapes: Sequence[BlockShape]) -> None:
    """What trains and what the optimizers hold: under SGD, and under Adam with its store."""
    for shape in shapes:
        width = shape.memory.value_width
        table = jax.ShapeDtypeStruct((shape.slots, width), shape.table_dtype)
        size = block.static_size(shape)
        capacity = min(shape.slots, _TASK_STEPS * size)
        held = {
            name: count_bytes(
                jax.eval_shape(partial(create_store, optimizer, capacity=capacity), table)
            )
            for name, optimizer in (("sgd", optax.sgd(1.0)), ("adam", optax.adam(1.0)))
        }
        rows = shape.selected * width * table.dtype.itemsize
        more = {
            "trained_bytes": rows,
            "sgd_state_bytes": held["sgd"],
            "adam_state_bytes": held["adam"],
            "adam_store_capacity": capacity,
            "dense_trained_bytes": shape.table_bytes,
            "dense_adam_state_bytes": 2 * shape.slots * width * 4,
        }
        report.add(Measurement(SUITE, "trained, and optimizer state", setting_of(shape), more=more))
