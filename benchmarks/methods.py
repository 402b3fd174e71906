"""The methods on a whole model: sparse, LoRA, full, and the dense ways to train a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks.models import memory_of, settings_for
from smf_jax.continual.config import SweepFlags
from smf_jax.data.batching import Batch
from smf_jax.losses import weighted_loss
from smf_jax.memory.layer import READS
from smf_jax.models.config import ModelConfig
from smf_jax.models.decoder import Decoder
from smf_jax.params import Params, pool_path, unflatten
from smf_jax.sparse.selection import budget_size, select_slots
from smf_jax.sparse.transform import freeze_all_but_rows
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.sparse.usage import PoolUsage, count_accesses
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Shared
from smf_jax.training.trainers import Trainer, dense_trainer, lora_trainer

SMF, FULL, LORA = "smf", "full, AdamW", "LoRA r 8, AdamW"
MASKED, DENSE_ADAM = "dense gradient, masked", "dense gradient, Adam on the tables"
METHODS = (SMF, LORA, FULL, MASKED, DENSE_ADAM)
# Rows with optimizer state: needed where the table is narrower than its masters.
_STORE_STEPS = 30
_LEARNING_RATE = 1e-3


class Method(NamedTuple):
    """A method on one model.

    Attributes:
      begin: ``(leaves) -> (frozen leaves, state)``; the state shares their buffers.
      step: ``(state, frozen, usage, batch) -> (state, loss)``.
    """

    begin: Callable[[Params], tuple[Params, Any]]
    step: Callable[[Any, Params, Any, Batch], tuple[Any, jax.Array]]


def make_method(name: str, config: ModelConfig, budget: int) -> Method:
    """A method of `METHODS` on a model with memories."""
    if name == MASKED:
        return _masked(config, budget)
    model = Decoder(config)
    placement = memory_of(config)
    pools = tuple(pool_path(pool) for pool in placement.pools)
    if name == SMF:
        size = budget_size(budget)
        sparse = SparseConfig(size=size)
        capacity = min(placement.memory.slots, _STORE_STEPS * size)
        return _of_trainer(sparse_trainer(model, sparse, capacity), budget)
    if name == LORA:
        flags = SweepFlags()
        targets = tuple(flags.lora_targets.split(","))
        trainer = lora_trainer(
            model, OptimizerConfig("adamw"), flags.lora_rank, flags.lora_alpha, targets
        )
    elif name == FULL:
        trainer = dense_trainer(model, OptimizerConfig("adamw"))
    else:
        trainer = dense_trainer(model, OptimizerConfig("adam"), trains=lambda path: path in pools)
    return _of_trainer(trainer, budget)


def _of_trainer(trainer: Trainer, budget: int) -> Method:
    settings = settings_for(budget, _LEARNING_RATE)

    def begin(params: Params) -> tuple[Params, Any]:
        return trainer.frozen(params), trainer.begin(params, settings)

    def step(state: Any, frozen: Params, usage: Any, batch: Batch) -> tuple[Any, jax.Array]:
        state, metrics = trainer.step(Shared(frozen, usage), state, batch, settings)
        return state, metrics.loss

    return Method(begin, step)


def _masked(config: ModelConfig, budget: int) -> Method:
    """The tables' whole gradients, masked to the selected rows by `freeze_all_but_rows`."""
    model, placement = Decoder(config), memory_of(config)
    pools = tuple(pool_path(pool) for pool in placement.pools)
    transform = freeze_all_but_rows(OptimizerConfig("sgd"), pools, _LEARNING_RATE)

    def begin(params: Params) -> tuple[Params, Any]:
        frozen = {path: leaf for path, leaf in params.items() if path not in pools}
        tables = {pool: params[pool] for pool in pools}
        return frozen, (tables, transform.init(tables))

    def step(
        state: Any, frozen: Params, usage: dict[str, PoolUsage], batch: Batch
    ) -> tuple[Any, jax.Array]:
        tables, opt_state = state

        def loss_of(tables: Params) -> tuple[jax.Array, Any]:
            variables = {"params": unflatten({**frozen, **tables})}
            logits, collections = model.apply(variables, batch.tokens, batch.valid, mutable=[READS])
            return weighted_loss(logits, batch.targets, batch.weights), collections[READS]

        (loss, reads), gradients = jax.value_and_grad(loss_of, has_aux=True)(tables)
        counts = _count(config, reads["memory"], batch)
        slots = {
            pool: select_slots(
                counts[pool],
                usage[pool],
                top_t=jnp.asarray(budget),
                size=min(budget_size(budget), counts[pool].shape[0]),
            )
            for pool in pools
        }
        updates, opt_state = transform.update(gradients, opt_state, tables, slots=slots)
        return (optax.apply_updates(tables, updates), opt_state), loss

    return Method(begin, step)


def _count(config: ModelConfig, reads: Any, batch: Batch) -> dict[str, jax.Array]:
    """Accesses of every pool by the layers that read it."""
    placement = memory_of(config)
    counts: dict[str, jax.Array] = {}
    for layer in placement.layers:
        slots = reads[f"layer_{layer}"]["read"].slots
        of_layer = count_accesses(
            slots.reshape(batch.valid.size, -1), batch.valid.reshape(-1), placement.memory.slots
        )
        pool = pool_path(placement.pool_of(layer))
        counts[pool] = counts[pool] + of_layer if pool in counts else of_layer
    return counts


def shapes_of(method: Method, params: Params) -> tuple[Any, Any]:
    """Shapes of the frozen leaves and of the state."""
    return jax.eval_shape(method.begin, params)


def stepping(
    run: Callable[..., Any], state: Any, frozen: Params, usage: Any, batches: Sequence[Batch]
) -> Callable[[int], Any]:
    """The call of a contestant: one step on the next of the batches."""
    held = [state]

    def call(repetition: int) -> Any:
        held[0], loss = run(held[0], frozen, usage, batches[repetition % len(batches)])
        return held[0], loss

    return call
