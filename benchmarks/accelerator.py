"""Suite ``accelerator``: the memory at full size in bfloat16, and inside a 1.3B model's step.

Times are of many calls that are started one after another and waited for together, beside what the
profiler saw the device do. Everything is compared with float64 before it is timed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax

from benchmarks import lookup, methods, models, read
from benchmarks.block import make_block, random_table
from benchmarks.costs import BlockShape, lookup_cost, read_cost, weight_gradient_cost
from benchmarks.events import busy_seconds
from benchmarks.flags import BenchmarkFlags
from benchmarks.harness import compile_for, over_inputs
from benchmarks.machine import peak_bytes
from benchmarks.parts import Holder, enter_parts
from benchmarks.results import Measurement, Report
from benchmarks.suite import Field, check_ratio, entry, fits, ratio
from benchmarks.verify import verify_block
from smf_jax.memory.config import MemoryConfig
from smf_jax.memory.product_keys import product_key_lookup
from smf_jax.models.config import ModelConfig

SUITE = "accelerator"
READ, WITH_MEMORY, LEAST_MEMORY = "read", "smf step", "smf step, least memory"
_ROWS = 64  # of a batch of whole models
_BATCH_SETS = 4
# Of the least work that still has a read to be differentiated.
_LEAST = MemoryConfig(keys_per_half=8, heads=1, reads=1, key_width=2, value_width=8, gate="none")


def accelerator_shape(scale: float = 1.0) -> BlockShape:
    """The setting of 2510.15103: a million slots of 1,024, h 4, k 32, 4,096 tokens, in bfloat16."""
    keys = max(8, round(1024 * scale))
    memory = MemoryConfig(
        keys_per_half=keys,
        heads=4,
        reads=min(32, keys),
        key_width=2 * max(4, round(128 * scale)),
        value_width=16 * max(1, round(64 * scale)),
    )
    tokens = max(_ROWS, _ROWS * round(64 * scale))
    budget = min(512, memory.slots)
    width = 64 * max(1, round(32 * scale))
    return BlockShape(memory, tokens, width, budget, dtype="bfloat16", table_dtype="bfloat16")


def run(flags: BenchmarkFlags, report: Report) -> None:
    """Verifies, then times the block and its parts, then whole models with and without it."""
    shape = accelerator_shape(flags.scale)
    given = make_block(shape)
    table = random_table(shape.slots, shape.memory.value_width, shape.table_dtype)
    report.say(
        "  "
        + ", ".join(f"{what} {worst:.1e}" for what, worst in verify_block(given, table).items())
        + " from float64, of the largest value"
    )
    calls = 1 if jax.default_backend() == "cpu" else 10
    field = DeviceField()
    holder = Holder((table, given.store(table)))
    del table
    _enter_reads(field, shape, holder)
    _enter_lookup(field, shape)
    enter_parts(field, SUITE, given, holder)
    field.run(report, flags.repetitions, calls)
    del field, given, holder
    field = DeviceField()
    for name, memory in ((WITH_MEMORY, shape.memory), (LEAST_MEMORY, _LEAST)):
        _enter_model(field, report, flags, shape, name, memory)
    field.run(report, flags.repetitions, calls)
    report.add(Measurement(SUITE, "everything", {}, peak_bytes=peak_bytes()))
    check_accelerator(report, shape)


class DeviceField(Field):
    """A field whose measurements also tell how long the device was busy in a call."""

    def run(self, report: Report, repetitions: int, calls: int = 1) -> None:
        """As of `Field`; the profiler runs after the timing, not beside it."""
        first = len(report.measurements)
        super().run(report, repetitions, calls)
        for place, call in enumerate(self.calls(), start=first):
            measured = report.measurements[place]
            busy = busy_seconds(call)
            if busy is not None:
                more = {**measured.more, "busy_seconds": busy}
                report.measurements[place] = replace(measured, more=more)
                report.say(f"  {measured.name}: the device was busy {1e3 * busy:.3g} ms a call")


def _enter_reads(field: Field, shape: BlockShape, holder: Holder) -> None:
    sets = read.make_reads(shape)
    forms: dict[str, Any] = {
        READ: (read.read, read_cost(shape), 2),
        "gradient of weights": (read.weight_gradient_of_read, weight_gradient_cost(shape), 3),
        "read, one gather": (read.plain_read, read_cost(shape), 2),
    }
    for name, (form, cost, wanted) in forms.items():
        inputs = [each[:wanted] for each in sets]
        program = compile_for(form, holder.state[0], *inputs[0])
        call = holder.reading(program.run, inputs)
        field.enter(entry(SUITE, name, shape, cost), call, program)


def _enter_lookup(field: Field, shape: BlockShape) -> None:
    inputs = lookup.make_queries(shape)

    def find(queries: jax.Array, keys: jax.Array) -> Any:
        return product_key_lookup(queries, keys, shape.memory.reads)

    program = compile_for(find, *inputs[0])
    measurement = entry(SUITE, "lookup", shape, lookup_cost(shape))
    field.enter(measurement, over_inputs(program.run, inputs), program)


def _enter_model(
    field: Field,
    report: Report,
    flags: BenchmarkFlags,
    shape: BlockShape,
    name: str,
    memory: MemoryConfig,
) -> None:
    """Enters a whole model's step; the least memory goes back through the same blocks."""
    config = models.large_decoder(memory, flags.scale, shape.dtype)
    method = methods.make_method(methods.SMF, config, shape.budget)
    batches = [
        models.random_batch(config, _ROWS, shape.tokens // _ROWS, seed)
        for seed in range(_BATCH_SETS)
    ]
    usage = models.random_usage(config)
    abstract = models.abstract_leaves(config, shape.dtype)
    frozen, state = methods.shapes_of(method, abstract)
    program = compile_for(method.step, state, frozen, usage, batches[0], donate=(0,))
    if not fits(report, field, f"{SUITE}, {name}", program):
        return
    frozen, state = jax.block_until_ready(method.begin(models.random_leaves(config, shape.dtype)))
    call = methods.stepping(program.run, state, frozen, usage, batches)
    cost = models.model_cost(config, "smf", shape.tokens, shape.budget, shape.dtype)
    setting = {"model": _size(config), "table_slots": memory.slots, "tokens": shape.tokens}
    field.enter(Measurement(SUITE, name, setting, cost=cost), call, program)


def _size(config: ModelConfig) -> str:
    """The parameters beside the memory's, as models are called by them."""
    params = models.abstract_leaves(config)
    count = sum(leaf.size for path, leaf in params.items() if not path.startswith("memory/"))
    return f"{count / 1e9:.1f}B decoder" if count >= 1e8 else f"{count / 1e6:.1f}M decoder"


def check_accelerator(report: Report, shape: BlockShape) -> None:
    """Checks the read against the copy bandwidth, and what the memory adds to a model's step."""
    seconds = report.median(SUITE, READ, table_slots=shape.slots)
    share = None
    if seconds is not None and report.rates is not None:
        share = read_cost(shape).bytes / seconds / report.rates.copy_bytes
    check_ratio(report, "accelerator_read_of_copy_bandwidth", share, "at least", 0.85)
    whole = ratio(report.median(SUITE, WITH_MEMORY), report.median(SUITE, LEAST_MEMORY))
    added = None if whole is None else whole - 1
    check_ratio(report, "accelerator_memory_adds_to_step", added, "at most", 0.10)
