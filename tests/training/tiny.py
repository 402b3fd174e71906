"""A tiny decoder with memories, batches with pads, and compiled steps that tests share."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from smf_jax.data.batching import Batch
from smf_jax.losses import weighted_loss
from smf_jax.memory.layer import MemoryConfig
from smf_jax.models.config import MemoryPlacement, ModelConfig, PlacementMode
from smf_jax.models.decoder import Decoder, abstract_params
from smf_jax.params import Params, flatten, pool_path, unflatten
from smf_jax.sparse.selection import select_slots
from smf_jax.sparse.usage import PoolUsage
from smf_jax.training.reads import read_counts
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Settings, Shared
from smf_jax.training.trainers import Trainer
from tests.models.tiny import PLAIN, random_params

MEMORY = MemoryConfig(
    keys_per_half=10, heads=2, reads=3, key_width=8, value_width=6, query_norm="rms"
)
SLOTS = MEMORY.slots
ROWS, LENGTH = 3, 8


def model_config(
    layers: tuple[int, ...] = (0,), mode: PlacementMode = "pretrain", **config
) -> ModelConfig:
    memory = MemoryPlacement(layers, mode, MEMORY, **config)
    return replace(PLAIN, layers=max(layers) + 1, memory=memory)


@cache
def params(model: ModelConfig) -> Params:
    """Random leaves; some of every table are ``-0.0``."""
    flat = flatten(random_params(model))
    for path, leaf in flat.items():
        if path.endswith("/values"):
            flat[path] = leaf.at[::3, 0].set(-0.0).at[1].set(-0.0)
    return flat


def batch(seed: int = 0, rows: int = ROWS) -> Batch:
    """Rows of different lengths, padded on the right; the last half of each is its answer."""
    rng = np.random.default_rng(seed)
    sequences = rng.integers(0, PLAIN.vocabulary, (rows, LENGTH + 1)).astype(np.int32)
    lengths = rng.integers(3, LENGTH + 1, rows)
    lengths[0] = LENGTH
    places = np.arange(LENGTH)[None]
    valid = places < lengths[:, None]
    weights = np.where(places >= lengths[:, None] // 2, 1.0, 0.1) * valid
    return Batch(
        np.where(valid, sequences[:, :-1], 0),
        np.where(valid, sequences[:, 1:], 0),
        weights.astype(np.float32),
        valid,
    )


def batches(steps: int, start: int = 0) -> Batch:
    """``(steps, b, t)`` fields."""
    made = [batch(start + seed) for seed in range(steps)]
    return Batch(*(np.stack(fields) for fields in zip(*made, strict=True)))


def spoilt(batch: Batch) -> Batch:
    """A batch whose loss is not a number."""
    return batch._replace(weights=np.where(batch.weights == 1, np.nan, batch.weights))


def same_but_for(after, before, *names: str) -> None:
    """Whether nothing but the named fields changed."""
    jax.tree.map(
        np.testing.assert_array_equal,
        after._replace(**{name: getattr(before, name) for name in names}),
        before,
    )


def usage(model: ModelConfig) -> dict[str, PoolUsage]:
    """A made-up background of every pool."""
    rng = np.random.default_rng(3)
    df = rng.integers(0, 9, SLOTS)
    of_pool = PoolUsage(
        jnp.asarray(df, jnp.int32), jnp.asarray(df * 2, jnp.int32), jnp.asarray(8, jnp.int32)
    )
    assert model.memory is not None
    return {pool_path(pool): of_pool for pool in model.memory.pools}


def settings(learning_rate: float = 0.5, budget: int = 5, seed: int = 0) -> Settings:
    return Settings(
        jnp.asarray(learning_rate, jnp.float32),
        jnp.asarray(budget, jnp.int32),
        jnp.asarray(seed, jnp.uint32),
    )


def abstract(model: ModelConfig) -> Params:
    """Shapes and dtypes of all leaves, for lowering without computing."""
    return flatten(abstract_params(model))


@cache
def loss_and_gradient(model):
    """The plain way: the loss differentiated with respect to table and scale themselves."""

    def loss(trained, params, batch):
        params = {**params, **trained}
        logits = Decoder(model).apply({"params": unflatten(params)}, batch.tokens, batch.valid)
        return weighted_loss(cast(jax.Array, logits), batch.targets, batch.weights)

    def differentiated(params, batch):
        trained = {p: x for p, x in params.items() if p.endswith(("/values", "/alpha"))}
        return jax.value_and_grad(loss)(trained, params, batch)

    return jax.jit(differentiated)


@cache
def counts_of(model):
    return jax.jit(lambda params, batch: read_counts(Decoder(model), params, batch))


class Run:
    """One trial with its step compiled, nothing donated, so that tests can look back."""

    def __init__(self, trainer: Trainer, model: ModelConfig, with_usage: bool = True) -> None:
        self.trainer, self.base = trainer, params(model)
        self.shared = Shared(trainer.frozen(self.base), usage(model) if with_usage else None)
        self.step = jax.jit(partial(trainer.step, self.shared))
        self.begin_task = jax.jit(partial(trainer.begin_task, self.shared))

    def start(self, of=None):
        return self.trainer.begin(self.base, settings() if of is None else of)


@cache
def sparse_run(
    config: SparseConfig,
    model: ModelConfig | None = None,
    capacity: int = SLOTS,
    keep_optimizer_state: bool = False,
) -> Run:
    """A sparse trial; tests that want the same one share its compilation."""
    model = model_config() if model is None else model
    return Run(sparse_trainer(Decoder(model), config, capacity, keep_optimizer_state), model)


def expected_slots(run, state, batch, settings, model=None, rule="tfidf"):
    """What a step ought to select, from the counts of a forward pass."""
    model = model_config() if model is None else model
    params = {**run.shared.frozen, **run.trainer.trained(state)}
    counts = counts_of(model)(params, batch)
    return {
        pool: select_slots(
            counts[pool], usage(model)[pool], rule=rule, top_t=settings.budget, size=64
        )
        for pool in counts
    }
