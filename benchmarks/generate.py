"""Suite ``generate``: greedy decoding with a cache, with memories of many sizes and with none."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import models
from benchmarks.flags import BenchmarkConfig
from benchmarks.report import Entry, Report, Suite
from smf_jax.models.decoder import Decoder
from smf_jax.models.generate import generate
from smf_jax.params import unflatten

SUITE = "generate"
_ROWS, _PROMPT, _STEPS = 32, 16, 16


def run(flags: BenchmarkConfig, report: Report) -> None:
    """Decodes with the built-in base's shape, all table slots and no memory in turns."""
    suite = Suite()
    for slots in (*flags.slots(), 0):
        config = models.built_in_decoder(slots or flags.slots()[0], flags.scale)
        width = models.memory_of(config).memory.value_width
        if not report.has_room(f"{SUITE} at {slots:,} table slots", 4 * slots * width):
            continue
        name, setting = f"generate {_STEPS} tokens", {"table_slots": slots, "rows": _ROWS}
        if not slots:
            name, setting, config = f"{name}, no memory", {"rows": _ROWS}, config.with_memory(None)
        model, params = Decoder(config), unflatten(models.random_leaves(config))

        def decode(params: Any, prompts: jax.Array, model: Decoder = model) -> jax.Array:
            return generate(model, params, prompts, jnp.ones(prompts.shape, bool), _STEPS)

        prompts = [(params, b.tokens) for b in models.random_batches(config, _ROWS, _PROMPT)]
        suite.compile(Entry(SUITE, name, setting), decode, prompts)
    suite.run(report, flags.repetitions)
