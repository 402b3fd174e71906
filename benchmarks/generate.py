"""Suite ``generate``: greedy decoding with a cache, with memories of many sizes and with none."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import models
from benchmarks.costs import Cost
from benchmarks.flags import BenchmarkFlags
from benchmarks.harness import compile_for, over_inputs
from benchmarks.results import Measurement, Report
from benchmarks.suite import Field, room_for
from smf_jax.models.config import ModelConfig
from smf_jax.models.decoder import Decoder
from smf_jax.models.generate import generate
from smf_jax.params import unflatten

SUITE = "generate"
_ROWS, _PROMPT, _STEPS = 32, 16, 16
_INPUT_SETS = 4


def run(flags: BenchmarkFlags, report: Report) -> None:
    """Decodes with the built-in base's shape, all table slots and no memory in turns."""
    field = Field()
    for slots in flags.slots():
        config = models.built_in_decoder(slots, flags.scale)
        memory = models.memory_of(config).memory
        what = f"{SUITE} at {slots:,} table slots"
        if not room_for(report, what, 4 * slots * memory.value_width):
            continue
        _enter(field, config, f"generate {_STEPS} tokens", {"table_slots": slots})
    plain = models.built_in_decoder(flags.slots()[0], flags.scale).with_memory(None)
    _enter(field, plain, f"generate {_STEPS} tokens, no memory", {})
    field.run(report, flags.repetitions)


def _enter(field: Field, config: ModelConfig, name: str, setting: dict[str, Any]) -> None:
    params = unflatten(models.random_leaves(config))
    prompts = [
        (params, models.random_batch(config, _ROWS, _PROMPT, seed).tokens)
        for seed in range(_INPUT_SETS)
    ]
    program = compile_for(decode(config), *prompts[0])
    measurement = Measurement(
        SUITE, name, {**setting, "rows": _ROWS}, cost=decode_cost(config, _ROWS, _PROMPT, _STEPS)
    )
    field.enter(measurement, over_inputs(program.run, prompts), program)


def decode(config: ModelConfig) -> Callable[..., Any]:
    """``(params, prompts) -> tokens``, no token ending a row."""
    return partial(_decode, Decoder(config))


def _decode(model: Decoder, params: Any, prompts: jax.Array) -> jax.Array:
    return generate(model, params, prompts, jnp.ones(prompts.shape, bool), _STEPS)


def decode_cost(config: ModelConfig, rows: int, prompt: int, steps: int) -> Cost:
    """Every kernel once for the prompt and once a token after the first; the rows of all reads."""
    sizes = {path: math.prod(leaf.shape) for path, leaf in models.abstract_leaves(config).items()}
    head = sizes.get("head/kernel", sizes["embedder/embedding"])
    blocks = sum(
        size
        for path, size in sizes.items()
        if path.startswith(("layers_", "memory/")) and not path.endswith("/values")
    )
    tokens = rows * (prompt + steps - 1)
    moved = 4.0 * (head + blocks) * steps
    if config.memory is not None:
        memory = config.memory.memory
        reads = tokens * memory.reads_per_token * len(config.memory.layers)
        moved += 4.0 * memory.value_width * min(reads, steps * memory.slots)
    return Cost(moved, 2.0 * (tokens * blocks + rows * steps * head))
