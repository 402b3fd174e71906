"""Suite ``generate``: greedy decoding with a cache, with memories of many sizes and with none."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import models
from benchmarks.costs import Cost
from benchmarks.flags import BenchmarkConfig
from benchmarks.harness import compile_for, over_inputs
from benchmarks.report import Measurement, Report, Suite
from smf_jax.models.config import ModelConfig
from smf_jax.models.decoder import Decoder
from smf_jax.models.generate import generate
from smf_jax.params import unflatten

SUITE = "generate"
_ROWS, _PROMPT, _STEPS = 32, 16, 16


def run(flags: BenchmarkConfig, report: Report) -> None:
    """Decodes with the built-in base's shape, all table slots and no memory in turns."""
    suite, name = Suite(), f"generate {_STEPS} tokens"
    for slots in flags.slots():
        config = models.built_in_decoder(slots, flags.scale)
        memory = models.memory_of(config).memory
        if report.has_room(f"{SUITE} at {slots:,} table slots", 4 * slots * memory.value_width):
            _add(suite, config, name, {"table_slots": slots})
    plain = models.built_in_decoder(flags.slots()[0], flags.scale).with_memory(None)
    _add(suite, plain, f"{name}, no memory", {})
    suite.run(report, flags.repetitions)


def _add(suite: Suite, config: ModelConfig, name: str, setting: dict[str, Any]) -> None:
    model, params = Decoder(config), unflatten(models.random_leaves(config))

    def decode(params: Any, prompts: jax.Array) -> jax.Array:
        """No token ends a row."""
        return generate(model, params, prompts, jnp.ones(prompts.shape, bool), _STEPS)

    prompts = [(params, batch.tokens) for batch in models.random_batches(config, _ROWS, _PROMPT)]
    program = compile_for(decode, *prompts[0])
    setting = {**setting, "rows": _ROWS}
    measurement = Measurement(SUITE, name, setting, cost=decode_cost(config))
    suite.add(measurement, over_inputs(program.run, prompts), program)


def decode_cost(config: ModelConfig) -> Cost:
    """Every kernel once for the prompt and once a token after the first; the rows of all reads."""
    sizes = {path: leaf.size for path, leaf in models.abstract_leaves(config).items()}
    head = sizes.get("head/kernel", sizes["embedder/embedding"])
    within = [path for path in sizes if path.startswith(("layers_", "memory/"))]
    blocks = sum(sizes[path] for path in within if not path.endswith("/values"))
    tokens = _ROWS * (_PROMPT + _STEPS - 1)
    moved = 4.0 * (head + blocks) * _STEPS
    if config.memory is not None:
        memory = config.memory.memory
        reads = tokens * memory.reads_per_token * len(config.memory.layers)
        moved += 4.0 * memory.value_width * min(reads, _STEPS * memory.slots)
    return Cost(moved, 2.0 * (tokens * blocks + _ROWS * _STEPS * head))
