"""Suite ``accelerator``: the memory at full size in bfloat16, and inside a 1.3B model's step."""

from functools import partial

import jax

from benchmarks import models
from benchmarks.block import make_block
from benchmarks.costs import BlockShape
from benchmarks.flags import BenchmarkConfig
from benchmarks.harness import Holder
from benchmarks.lookup import LOOKUP, add_lookup
from benchmarks.machine import peak_bytes
from benchmarks.read import GRADIENT, PLAIN, READ, add_reads
from benchmarks.report import Entry, Report, Suite
from benchmarks.step import add_parts
from smf_jax.memory.config import MemoryConfig
from smf_jax.memory.product_keys import product_key_lookup
from smf_jax.models.config import MemoryPlacement, ModelConfig

SUITE = "accelerator"
WITH_MEMORY, LEAST_MEMORY = "smf step", "smf step, least memory"
ROWS = 64  # of a batch of whole models
# Of the least work that still has a read to be differentiated.
_LEAST = MemoryConfig(keys_per_half=8, heads=1, reads=1, key_width=2, value_width=8, gate="none")


def accelerator_shape(scale: float = 1.0) -> BlockShape:
    """The setting of 2510.15103: a million slots of 1,024, h 4, k 32, 4,096 tokens, in bfloat16."""
    keys = max(8, round(1024 * scale))
    key_half, values, tokens, width = (max(1, round(n * scale)) for n in (128, 64, 64, 32))
    memory = MemoryConfig(keys, 4, min(32, keys), 2 * max(4, key_half), 16 * values)
    budget = min(512, memory.slots)
    return BlockShape(memory, ROWS * tokens, 64 * width, budget, "bfloat16", "bfloat16")


def large_decoder(memory: MemoryConfig, scale: float) -> ModelConfig:
    """The 1.3B model of 2510.15103: a memory in place of the feed-forward of layer 12."""
    return models.placed("decoder-1.3b", MemoryPlacement((12,), "pretrain", memory), scale)


def run(flags: BenchmarkConfig, report: Report) -> None:
    """Times the block and its parts, then whole models with and without it."""
    shape = accelerator_shape(flags.scale)
    calls = 1 if jax.default_backend() == "cpu" else 10
    suite, given = Suite(), make_block(shape)
    holder = Holder(given.begin(given.table()))
    add_reads(suite, SUITE, shape, holder, (READ, GRADIENT, READ + PLAIN))
    add_lookup(suite, SUITE, shape, LOOKUP, partial(product_key_lookup, k=shape.memory.reads))
    add_parts(suite, SUITE, given, holder)
    suite.run(report, flags.repetitions, calls)
    del suite, given, holder
    suite = Suite()
    for name, memory in ((WITH_MEMORY, shape.memory), (LEAST_MEMORY, _LEAST)):
        # The least memory goes back through the same blocks.
        config = large_decoder(memory, flags.scale)
        batches = models.random_batches(config, ROWS, shape.tokens // ROWS)
        setting = {"model": "1.3B decoder", "table_slots": memory.slots, "tokens": shape.tokens}
        what = (models.SMF, config, batches, shape.budget, shape.dtype)
        models.add_model(suite, report, Entry(SUITE, name, setting), *what)
    suite.run(report, flags.repetitions, calls)
    report.add(Entry(SUITE, "everything", {}), peak_bytes=peak_bytes())
