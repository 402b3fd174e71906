"""Suite ``step``: a training step of the memory block alone, its parts, and other ways."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, get_args

import jax
import numpy as np
import optax

from benchmarks import block
from benchmarks.block import ADAM, MASKED, SMF, Block, abstract_table, make_block, ways
from benchmarks.costs import BlockShape, block_costs
from benchmarks.flags import BenchmarkConfig
from benchmarks.harness import Holder, compile_for
from benchmarks.machine import ask_child, usable_cores
from benchmarks.report import Entry, Report, Suite
from benchmarks.torch_twin import TorchBlock
from smf_jax.params import count_bytes
from smf_jax.sparse.accesses import Form
from smf_jax.sparse.row_optimizer import create_store
from smf_jax.sparse.rows import row_gradient

SUITE, AFTER = "step", "after the forward"
TORCH = "torch EmbeddingBag(sparse=True), SGD"
FORMS: tuple[Form, ...] = get_args(Form)
PEAK_SLOTS = 2**20  # of processes that measure peak memory, or the most below
_TASK_STEPS = 30  # of the store that Adam's moments of rows would need
_TOLERANCE = 1e-3  # of one float32 product of ten thousands of terms against another


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
        for way, beside in ((SMF, "beside the dense ways"), (MASKED, ""), (ADAM, "")):
            _add_way(suite, report, given, way, beside)
        suite.run(report, flags.repetitions)
        suite = Suite()  # the tables of the last are given back
        if flags.torch and _add_torch(suite, report, given):
            _add_way(suite, report, given, SMF, "beside torch")
            suite.run(report, flags.repetitions)
        del suite
    if flags.peak and jax.default_backend() == "cpu":
        take_peaks(report, shapes)
    for shape in shapes:
        _report_store(report, shape)


def add_parts(suite: Suite, of: str, given: Block, holder: Holder) -> None:
    """Adds the step and its parts, on one table; what counts also in each form, forced."""
    shape, usage, costs = given.shape, given.usage, block_costs(given.shape)
    forward = lambda table, *inputs: block.read_trace(given.layer, inputs[0], table, *inputs[1:])  # noqa: E731
    reading = [(params, x, upstream) for params, _, x, upstream in given.arguments()]
    select = lambda trace, usage: block.select(shape, trace.slots, usage)  # noqa: E731
    differentiate = lambda trace, selected: row_gradient([trace], selected, shape.slots)  # noqa: E731
    traces = [jax.jit(forward)(holder.state[0], *inputs) for inputs in reading]
    selected = [jax.jit(select)(trace, usage) for trace in traces]
    pairs = list(zip(traces, selected, strict=True))
    rows = [jax.jit(differentiate)(*pair) for pair in pairs]

    def add(name: str, function: Callable[..., Any], inputs: Any, how: str = "") -> None:
        cost = costs[name.partition(",")[0]]  # that of all forms
        suite.compile(Entry(of, name, shape.setting, cost), function, inputs, how, holder)

    step, after = partial(block.step, shape, given.layer), partial(block.after, shape)
    add(SMF, step, given.arguments(), "writes")
    add("forward and back to the read", forward, reading, "reads")
    ending = [(usage, trace) for trace in traces]
    add(AFTER, after, ending, "writes")
    for form in FORMS:
        with block.forced(form):
            add(f"{AFTER}, {form} form", after, ending, "writes")
    add("count and select", select, [(trace, usage) for trace in traces])
    add("row gradient", differentiate, pairs)
    add("update and write", block.write, list(zip(selected, rows, strict=True)), "writes")


def _add_way(suite: Suite, report: Report, given: Block, way: str, beside: str) -> None:
    shape, (start, run) = given.shape, ways(given)[way]
    state = jax.eval_shape(start, abstract_table(shape))
    program = compile_for(run, state, *given.arguments()[0], donate=(0,))
    name = f"{way}, {beside}" if beside else way
    entry = Entry(SUITE, name, shape.setting, block_costs(shape)[way], program)
    if suite.fits(report, entry):
        holder = Holder(jax.block_until_ready(start(given.table())))
        suite.add(entry, holder.call(program.run, given.arguments(), "writes"))


def _add_torch(suite: Suite, report: Report, given: Block) -> bool:
    """Adds PyTorch's block, once its output has been found to be the same; whether it did."""
    shape, what = given.shape, f"{SUITE}, {TORCH}, at {given.shape.slots:,} table slots"
    if find_spec("torch") is None:
        report.skip(what, "torch is not installed")
        return False
    # Its table is made from another, which is given back before anything runs.
    if not report.has_room(what, 2 * shape.table_bytes):
        return False
    theirs, x = TorchBlock(given, usable_cores()), given.inputs[0][0]
    ours = jax.jit(given.layer.apply)({"params": given.params}, x, given.table())[0]
    tolerance = _TOLERANCE * float(abs(ours).max())
    found = theirs.output(0).detach().numpy()
    np.testing.assert_allclose(found, ours, rtol=0, atol=tolerance, err_msg="PyTorch's block")
    suite.add(Entry(SUITE, TORCH, shape.setting, block_costs(shape)[SMF]), theirs)
    return True


def take_peaks(report: Report, shapes: Sequence[BlockShape]) -> None:
    """The peak memory of every way, each in a process of its own."""
    shape = max((s for s in shapes if s.slots <= PEAK_SLOTS), key=lambda s: s.slots, default=None)
    if shape is None:
        report.skip(f"{SUITE}, peak memory", f"needs at most {PEAK_SLOTS:,} table slots")
        return
    fields, table = {**shape.__dict__, "memory": shape.memory.to_dict()}, shape.table_bytes
    for way, tables in ((SMF, 2), (MASKED, 8), (ADAM, 8)):
        what = f"{SUITE}, peak memory of {way}"
        if not report.has_room(what, tables * table):
            continue
        try:
            peak = ask_child("benchmarks.block", {"shape": fields, "way": way})["peak_bytes"]
        except ValueError as error:
            report.skip(what, str(error))
            continue
        more = {"peak_bytes": peak, "table_bytes": table, "above_table_bytes": peak - table}
        report.add(Entry(SUITE, f"peak of {way}", shape.setting), **more)


def _report_store(report: Report, shape: BlockShape) -> None:
    """What trains and what the optimizers hold: under SGD, and under Adam with its store."""
    capacity = min(shape.slots, _TASK_STEPS * shape.static_size)
    table = abstract_table(shape)
    sgd, adam = (
        count_bytes(jax.eval_shape(partial(create_store, optimizer, capacity=capacity), table))
        for optimizer in (optax.sgd(1.0), optax.adam(1.0))
    )
    trained = shape.selected * shape.memory.value_width * table.dtype.itemsize
    moments = 2 * shape.slots * shape.memory.value_width * 4
    sparse = {"trained_bytes": trained, "sgd_state_bytes": sgd, "adam_state_bytes": adam}
    dense = {"dense_trained_bytes": shape.table_bytes, "dense_adam_state_bytes": moments}
    more = {**sparse, "adam_store_capacity": capacity, **dense}
    over = shape.table_bytes / (trained + sgd)
    entry = Entry(SUITE, "trained, and optimizer state", shape.setting)
    report.add(entry, **more, dense_over_smf_trained=over)
