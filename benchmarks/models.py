"""Whole models to be timed: shapes, random leaves and batches, methods, what a step needs."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.block import random_table
from benchmarks.costs import BlockShape, Cost, forward_cost, step_cost
from benchmarks.harness import Holder, compile_for
from benchmarks.report import Measurement, Report, Suite
from smf_jax.continual.config import PretrainConfig
from smf_jax.continual.pretraining import model_config
from smf_jax.data.batching import Batch
from smf_jax.models.config import MemoryPlacement, ModelConfig
from smf_jax.models.decoder import Decoder, abstract_params
from smf_jax.params import Params, flatten, pool_path
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.sparse.selection import budget_size
from smf_jax.sparse.usage import PoolUsage
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Settings, Shared
from smf_jax.training.trainers import dense_trainer, lora_trainer

SHAPES = {
    name: ModelConfig.from_dict(values)
    for name, values in json.loads((Path(__file__).parent / "shapes.json").read_text()).items()
}
SMF, FULL, LORA = "smf", "full, AdamW", "LoRA r 8, AdamW"
METHODS = (SMF, LORA, FULL)
LORA_TARGETS = ("query", "key", "value", "output", "gate", "up", "down")
# Rows with optimizer state: needed where the table is narrower than its masters.
STORE_STEPS = 30
_LEARNING_RATE = 1e-3
_BACKGROUND_BATCHES = 50


def built_in_decoder(slots: int, scale: float = 1.0) -> ModelConfig:
    """The shape of the built-in base, with so many table slots."""
    flags = PretrainConfig.of(keys_per_half=math.isqrt(slots))
    return shrunk(model_config(flags, flags.model.vocabulary), scale)


def placed(shape: str, placement: MemoryPlacement, scale: float = 1.0) -> ModelConfig:
    """A model of a known shape with memories, shrunk."""
    return shrunk(SHAPES[shape].with_memory(placement), scale)


def shrunk(config: ModelConfig, scale: float) -> ModelConfig:
    """A model with less depth and widths; memories keep theirs."""
    if scale == 1:
        return config
    placement = memory_of(config)
    # One more than memories at least, so that a feed-forward stays.
    layers = max(2, len(placement.layers) + 1, round(scale * config.layers))
    standing = sorted({layer * layers // config.layers for layer in placement.layers})
    head_width = max(4, 2 * round(scale * config.head_width / 2))
    return replace(
        config,
        vocabulary=max(64, round(scale * config.vocabulary)),
        width=config.heads * head_width,
        layers=layers,
        head_width=head_width,
        hidden_width=max(16, round(scale * config.hidden_width)),
        memory=replace(placement, layers=tuple(standing)),
    )


def memory_of(config: ModelConfig) -> MemoryPlacement:
    """The placement of a model that has memories."""
    if config.memory is None:
        raise ValueError("the model has no memory; place one")
    return config.memory


def abstract_leaves(
    config: ModelConfig, dtype: str = "float32", table_dtype: str | None = None
) -> Params:
    """Shapes of all leaves by path, in a dtype; tables may have one of their own."""
    leaves: dict[str, Any] = {}
    for path, leaf in flatten(abstract_params(config)).items():
        own = (table_dtype or dtype) if path.endswith("/values") else dtype
        leaves[path] = jax.ShapeDtypeStruct(leaf.shape, own)
    return leaves


def random_leaf(path: str, leaf: Any, seed: int = 0, part: int = 1 << 20) -> np.ndarray:
    """A leaf drawn part by part: scales near 1, everything else near 0, std 0.02."""
    rng = np.random.default_rng([seed, zlib.crc32(path.encode())])
    drawn = np.empty(leaf.shape, leaf.dtype)
    flat, mean = drawn.reshape(-1), np.float32(path.endswith("/scale"))
    for start in range(0, flat.size, part):
        piece = flat[start : start + part]
        piece[:] = mean + np.float32(0.02) * rng.standard_normal(piece.size, np.float32)
    return drawn


def random_leaves(config: ModelConfig, *dtypes: str) -> Params:
    """Random leaves by path, of the dtypes of `abstract_leaves`."""
    return {
        path: random_table(*leaf.shape, dtype=leaf.dtype.name)
        if path.endswith("/values")
        else jnp.asarray(random_leaf(path, leaf))
        for path, leaf in abstract_leaves(config, *dtypes).items()
    }


def random_batches(config: ModelConfig, rows: int, length: int, count: int = 4) -> list[Batch]:
    """Batches of full rows of random tokens; the last half of each row is its answer."""
    weights = np.tile(np.where(np.arange(length) >= length // 2, 1, 0.1), (rows, 1))
    of_all = (jnp.asarray(weights, jnp.float32), jnp.ones((rows, length), bool))
    batches = []
    for seed in range(count):
        drawn = np.random.default_rng(seed).integers(0, config.vocabulary, (rows, length + 1))
        tokens = jnp.asarray(drawn, jnp.int32)
        batches.append(Batch(tokens[:, :-1], tokens[:, 1:], *of_all))
    return batches


def random_usage(config: ModelConfig) -> dict[str, PoolUsage]:
    """A made-up background of every pool."""
    placement, batches = memory_of(config), jnp.asarray(_BACKGROUND_BATCHES, jnp.int32)
    usage = {}
    for pool in placement.pools:
        shape = (placement.memory.slots,)
        df = jax.random.randint(jax.random.key(pool), shape, 0, _BACKGROUND_BATCHES)
        usage[pool_path(pool)] = PoolUsage(df, 2 * df, batches)
    return usage


def settings_for(budget: int, learning_rate: float = _LEARNING_RATE) -> Settings:
    """Settings of one trial."""
    kinds = (jnp.float32, jnp.int32, jnp.uint32)
    return Settings(*map(jnp.asarray, (learning_rate, budget, 0), kinds))


class Method(NamedTuple):
    """A method on one model; its state shares buffers with the leaves and ends with the loss."""

    begin: Callable[[Params], tuple[Params, Any]]
    step: Callable[[Any, Params, Any, Batch], Any]


def make_method(name: str, config: ModelConfig, budget: int) -> Method:
    """A method of `METHODS` on a model with memories."""
    model, optimizer = Decoder(config), OptimizerConfig("adamw")
    slots = memory_of(config).memory.slots
    size = min(budget_size(budget), slots)
    if name == SMF:
        trainer = sparse_trainer(model, SparseConfig(size=size), min(slots, STORE_STEPS * size))
    elif name == LORA:
        trainer = lora_trainer(model, optimizer, 8, 16.0, LORA_TARGETS)
    else:
        trainer = dense_trainer(model, optimizer)
    settings = settings_for(budget)

    def begin(params: Params) -> tuple[Params, Any]:
        return trainer.frozen(params), (trainer.begin(params, settings), jnp.zeros(()))

    def step(state: Any, frozen: Params, usage: Any, batch: Batch) -> Any:
        trained, metrics = trainer.step(Shared(frozen, usage), state[0], batch, settings)
        return trained, metrics.loss

    return Method(begin, step)


def add_model(
    suite: Suite,
    report: Report,
    measurement: Measurement,
    name: str,
    config: ModelConfig,
    batches: Sequence[Batch],
    budget: int,
    dtype: str = "float32",
) -> None:
    """Adds a method on a model, where there is memory for it."""
    cost = model_cost(config, name, batches[0].tokens.size, budget, dtype)
    measurement = replace(measurement, cost=cost)
    method, usage = make_method(name, config, budget), random_usage(config)
    frozen, state = jax.eval_shape(method.begin, abstract_leaves(config, dtype))
    program = compile_for(method.step, state, frozen, usage, batches[0], donate=(0,))
    setting = ", ".join(map(str, measurement.setting.values()))
    if not suite.fits(report, f"{measurement.suite}, {measurement.name}, {setting}", program):
        return
    # The state shares buffers with the leaves, which nobody else holds.
    frozen, state = jax.block_until_ready(method.begin(random_leaves(config, dtype)))
    inputs = [(frozen, usage, batch) for batch in batches]
    suite.add(measurement, Holder(state).stepping(program.run, inputs), program)


def model_cost(
    config: ModelConfig, method: str, tokens: int, budget: int, dtype: str = "float32"
) -> Cost:
    """Operations and bytes of one step, attention's own products left out.

    ``smf`` goes back to the lowest memory only, the others through all blocks; full finetuning
    also makes every gradient and updates every leaf.
    """
    placement, kernels, back, everything = memory_of(config), 0, 0, 0
    for path, leaf in abstract_leaves(config).items():
        everything += leaf.size
        module, kind = path.partition("/")[0], path.rpartition("/")[2]
        # A tied embedding is the head too; an untied one is only looked up.
        if (kind == "kernel" and module != "memory") or (config.tied and module == "embedder"):
            block = int(module[7:]) if module.startswith("layers_") else config.layers
            kernels += leaf.size
            back += leaf.size * (method != SMF or block >= min(placement.layers))
    cost = Cost(jnp.dtype(dtype).itemsize * (kernels + back), 2.0 * tokens * (kernels + back))
    if method == FULL:  # gradient, leaf and both moments, read and written
        cost += Cost(4 * everything * 8, 2.0 * tokens * kernels + everything)
    shape = BlockShape(placement.memory, tokens, config.width, budget, config.dtype, dtype)
    for _ in placement.layers:
        cost += step_cost(shape) if method == SMF else forward_cost(shape)
    return cost
