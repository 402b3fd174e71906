"""Whole models to be timed: shapes, random leaves and batches, methods."""

import json
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.block import random_table
from benchmarks.harness import Call, Holder, Program, compile_for
from benchmarks.report import Entry, Report, Suite
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.bases.pretraining import model_config
from smf_jax.data.batching import Batch
from smf_jax.memory.config import MemoryConfig
from smf_jax.models.config import MemoryPlacement, ModelConfig
from smf_jax.models.decoder import Decoder, abstract_params
from smf_jax.params import Params, flatten, pool_path
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.sparse.selection import budget_size
from smf_jax.sparse.usage import PoolUsage
from smf_jax.training.penalised import penalised_trainer
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Settings, Shared
from smf_jax.training.trainers import Trainer, dense_trainer, lora_trainer

_SHAPES = json.loads((Path(__file__).parent / "shapes.json").read_text())
SHAPES = {name: ModelConfig.from_dict(values) for name, values in _SHAPES.items()}
SMF, FULL, LORA = "smf", "full, AdamW", "LoRA r 8, AdamW"
EWC, L2_INIT = "EWC, AdamW", "L2 to init, AdamW"
METHODS = (SMF, LORA, FULL)  # replay's step is that of full finetuning
ALL_METHODS = (*METHODS, EWC, L2_INIT)
_LORA_TARGETS = ("query", "key", "value", "output", "gate", "up", "down")
STEPS = 30  # of a task; so many budgets of rows may have optimizer state or masters


def built_in_decoder(slots: int, scale: float = 1.0) -> ModelConfig:
    """The shape of the built-in base, with so many table slots."""
    flags = PretrainConfig.of(keys_per_half=math.isqrt(slots))
    return shrunk(model_config(flags, flags.model.vocabulary), scale)


def placed(shape: str, placement: MemoryPlacement, scale: float = 1.0) -> ModelConfig:
    """A model of a known shape with memories, shrunk."""
    return shrunk(SHAPES[shape].with_memory(placement), scale)


def smollm(slots: int, scale: float = 1.0, layers: int = 30) -> ModelConfig:
    """SmolLM2-135M's shape, of so many layers, a memory added in the middle."""
    shape = replace(SHAPES["smollm2-135m"], layers=layers)
    memory = MemoryConfig(keys_per_half=math.isqrt(slots), value_width=shape.width)
    return shrunk(shape.with_memory(MemoryPlacement((layers // 2,), "add", memory)), scale)


def shrunk(config: ModelConfig, scale: float) -> ModelConfig:
    """A model with less depth and widths; memories keep theirs."""
    if scale == 1:
        return config
    placement = memory_of(config)
    # One more than memories at least, so that a feed-forward stays.
    layers = max(2, len(placement.layers) + 1, round(scale * config.layers))
    standing = sorted({layer * layers // config.layers for layer in placement.layers})
    head_width = max(4, 2 * round(scale * config.head_width / 2))
    sizes = {"width": config.heads * head_width, "layers": layers, "head_width": head_width}
    for name, least in (("vocabulary", 64), ("hidden_width", 16)):
        sizes[name] = max(least, round(scale * getattr(config, name)))
    changes: dict[str, Any] = {**sizes, "memory": replace(placement, layers=tuple(standing))}
    return replace(config, **changes)


def memory_of(config: ModelConfig) -> MemoryPlacement:
    """The placement of a model that has memories."""
    if config.memory is None:
        raise ValueError("the model has no memory; place one")
    return config.memory


def abstract_leaves(
    config: ModelConfig, dtype: str = "float32", table_dtype: str | None = None
) -> Params:
    """Shapes of all leaves by path, in a dtype; tables may have one of their own."""
    own = {True: table_dtype or dtype, False: dtype}
    leaves: Any = flatten(abstract_params(config))
    return {path: leaf.update(dtype=own[path.endswith("/values")]) for path, leaf in leaves.items()}


def random_leaf(path: str, leaf: Any, seed: int = 0) -> np.ndarray:
    """A leaf drawn part by part: scales near 1, everything else near 0, std 0.02."""
    rng = np.random.default_rng([seed, zlib.crc32(path.encode())])
    drawn, mean = np.empty(leaf.shape, leaf.dtype), np.float32(path.endswith("/scale"))
    flat = drawn.reshape(-1)
    for start in range(0, flat.size, 1 << 20):
        piece = flat[start : start + (1 << 20)]
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
    shape = (rows, length + 1)
    drawn = (np.random.default_rng(i).integers(0, config.vocabulary, shape) for i in range(count))
    tokens = (jnp.asarray(each, jnp.int32) for each in drawn)
    return [Batch(each[:, :-1], each[:, 1:], *of_all) for each in tokens]


def random_usage(config: ModelConfig) -> dict[str, PoolUsage]:
    """A made-up background of 50 batches for every pool."""
    placement, usage = memory_of(config), {}
    for pool in placement.pools:
        df = jax.random.randint(jax.random.key(pool), (placement.memory.slots,), 0, 50)
        usage[pool_path(pool)] = PoolUsage(df, 2 * df, jnp.asarray(50, jnp.int32))
    return usage


def settings_for(budget: int) -> Settings:
    """Settings of one trial."""
    return Settings(jnp.asarray(1e-3, jnp.float32), jnp.asarray(budget, jnp.int32), jnp.uint32(0))


def make_trainer(name: str, config: ModelConfig, budget: int) -> Trainer:
    """A method of `ALL_METHODS` on a model with memories."""
    model, optimizer = Decoder(config), OptimizerConfig("adamw")
    if name == LORA:
        return lora_trainer(model, optimizer, 8, 16.0, _LORA_TARGETS)
    if name == FULL:
        return dense_trainer(model, optimizer)
    if name in (EWC, L2_INIT):
        return penalised_trainer(model, optimizer, 0.1, by_fisher=name == EWC)
    slots = memory_of(config).memory.slots
    size = min(budget_size(budget), slots)
    return sparse_trainer(model, SparseConfig(size=size), min(slots, STEPS * size))


def make_method(name: str, config: ModelConfig, budget: int) -> tuple[Any, Any]:
    """How a method begins, with buffers of the leaves, and its step; states end with a loss."""
    trainer, settings = make_trainer(name, config, budget), settings_for(budget)

    def begin(params: Params) -> tuple[Params, Any]:
        return trainer.frozen(params), (trainer.begin(params, settings), jnp.zeros(()))

    def step(state: Any, frozen: Params, usage: Any, batch: Batch) -> Any:
        trained, metrics = trainer.step(Shared(frozen, usage), state[0], batch, settings)
        return trained, metrics.loss

    return begin, step


def compile_step(
    name: str, config: ModelConfig, batches: Sequence[Batch], budget: int, *dtypes: str
) -> tuple[Program, Callable[[], Call]]:
    """A method's step, compiled, and what makes its state and then gives the call to be timed."""
    (begin, step), usage = make_method(name, config, budget), random_usage(config)
    frozen, state = jax.eval_shape(begin, abstract_leaves(config, *dtypes))
    program = compile_for(step, state, frozen, usage, batches[0], donate=(0,))

    def start() -> Call:
        # The leaves are held by nobody else.
        frozen, state = jax.block_until_ready(begin(random_leaves(config, *dtypes)))
        inputs = [(frozen, usage, batch) for batch in batches]
        return Holder(state).call(program.run, inputs, "writes")

    return program, start


def add_model(suite: Suite, report: Report, entry: Entry, *what: Any) -> None:
    """Adds a method on a model, given as to `compile_step`, where there is memory for it."""
    program, start = compile_step(*what)
    entry = entry._replace(program=program)
    if suite.fits(report, entry):
        suite.add(entry, start())
