"""Suite ``accelerator``: the memory at full size in bfloat16, and inside a 1.3B model's step.

Times are of many calls that are started one after another and waited for together, beside what the
profiler saw the device do.
"""

from __future__ import annotations

from functools import partial

import jax

from benchmarks import models
from benchmarks.block import make_block
from benchmarks.costs import BlockShape
from benchmarks.flags import BenchmarkConfig
from benchmarks.harness import Holder
from benchmarks.lookup import LOOKUP, add_lookup
from benchmarks.machine import peak_bytes
from benchmarks.read import GRADIENT, READ, add_reads
from benchmarks.report import Measurement, Report, Suite
from benchmarks.step import add_parts
from smf_jax.memory.config import MemoryConfig
from smf_jax.memory.product_keys import product_key_lookup
from smf_jax.models.config import MemoryPlacement, ModelConfig

SUITE = "accelerator"
WITH_MEMORY, LEAST_MEMORY = "smf step", "smf step, least memory"
_ROWS = 64  # of a batch of whole models
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
    tokens, width = _ROWS * max(1, round(64 * scale)), 64 * max(1, round(32 * scale))
    return BlockShape(memory, tokens, width, min(512, memory.slots), "bfloat16", "bfloat16")


def run(flags: BenchmarkConfig, report: Report) -> None:
    """Times the block and its parts, then whole models with and without it."""
    shape = accelerator_shape(flags.scale)
    calls = 1 if jax.default_backend() == "cpu" else 10
    suite, given = Suite(), make_block(shape)
    holder = Holder(given.begin(given.table()))
    add_reads(suite, SUITE, shape, holder, (READ, GRADIENT, f"{READ}, one gather"))
    k = shape.memory.reads
    add_lookup(suite, SUITE, shape, LOOKUP, partial(product_key_lookup, k=k))
    add_parts(suite, SUITE, given, holder)
    suite.run(report, flags.repetitions, calls, profiled=True)
    del suite, given, holder
    suite = Suite()
    for name, memory in ((WITH_MEMORY, shape.memory), (LEAST_MEMORY, _LEAST)):
        # The least memory goes back through the same blocks.
        config = large_decoder(memory, flags.scale)
        setting = {"model": _size(config), "table_slots": memory.slots, "tokens": shape.tokens}
        measurement = Measurement(SUITE, name, setting)
        batches = models.random_batches(config, _ROWS, shape.tokens // _ROWS)
        given = (models.SMF, config, batches, shape.budget, shape.dtype)
        models.add_model(suite, report, measurement, *given)
    suite.run(report, flags.repetitions, calls, profiled=True)
    report.add(Measurement(SUITE, "everything", {}, more={"peak_bytes": peak_bytes()}))


def large_decoder(memory: MemoryConfig, scale: float) -> ModelConfig:
    """The 1.3B model of 2510.15103: a memory in place of the feed-forward of layer 12."""
    return models.placed("decoder-1.3b", MemoryPlacement((12,), "pretrain", memory), scale)


def _size(config: ModelConfig) -> str:
    """The parameters beside the memory's, as models are called by them."""
    params = models.abstract_leaves(config)
    count = sum(leaf.size for path, leaf in params.items() if not path.startswith("memory/"))
    return f"{count / 1e9:.1f}B decoder" if count >= 1e8 else f"{count / 1e6:.1f}M decoder"
