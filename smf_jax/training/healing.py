"""Healing: a memory that was put into a model learns, alone, to serve it.

The whole memory may train, as published (2604.05248, 2605.03229), or all of it but its routing: a
few hundred steps on queries and keys draw most reads to few slots, and a stream of facts finds no
slots of its own. Queries that were whitened and left alone keep the table in use.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array

from smf_jax.data.batching import Batch
from smf_jax.memory.ngrams import recent_tokens
from smf_jax.memory.norms import STATISTICS
from smf_jax.models.config import ModelConfig
from smf_jax.models.decoder import Decoder, Memory
from smf_jax.models.retrofit import is_replaced
from smf_jax.params import MEMORY, Params, block_path, is_memory, is_routing, split, unflatten
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.batch_norm import follow, training_loss
from smf_jax.training.dense_step import DenseState, LossFn
from smf_jax.training.trainers import Trainer, dense_trainer

HealingLoss = Literal["text", "distill"]


def heals(path: str, train_routing: bool = False) -> bool:
    """Whether healing trains a path: those of the memory; queries and keys only if told so."""
    return is_memory(path) and (train_routing or not is_routing(path))


def healing_trainer(
    model: Decoder,
    optimizer: OptimizerConfig,
    loss: HealingLoss = "text",
    train_routing: bool = False,
) -> Trainer[DenseState]:
    """Trains a retrofitted memory; query BatchNorm uses the statistics of the batches.

    The loss is that on the next tokens, or `distillation_loss`, whose removed params then have to
    be among those that are fitted. One that is unknown or does not fit the placement is an error.
    """
    if loss not in get_args(HealingLoss):
        raise ValueError(f"loss={loss!r} is unknown; choose from {get_args(HealingLoss)}")
    minimised = training_loss(model) if loss == "text" else distillation_loss(model)
    return dense_trainer(
        model, optimizer, partial(heals, train_routing=train_routing), loss=minimised
    )


def distillation_loss(model: Decoder) -> LossFn:
    """Mean squared error between each memory and the feed-forward that it replaced.

    Both see what the feed-forward saw in the model before the retrofit, so that layers learn apart
    from each other: ``L = mean over layers, tokens, width of (memory(x) - ffn(x))²``. The params
    of the loss hold the removed feed-forwards' too, under their old paths.
    Unless memories replaced something, this is a ValueError.
    """
    placement = model.config.memory
    if placement is None or placement.mode != "replace":
        mode = "none" if placement is None else placement.mode
        raise ValueError(
            f"loss='distill' with mode={mode!r}: it teaches a memory what the feed-forward in its "
            "place computed; retrofit with mode='replace', or heal with loss='text'"
        )
    before = Decoder(model.config.with_memory(None))
    memory = Memory(placement, model.config.width, model.config.dtype)
    count = model.config.context_tokens

    def loss(params: Params, batch: Batch) -> tuple[Array, Params]:
        new, old = split(params, is_memory)
        variables, valid = {"params": unflatten(new)[MEMORY]}, jnp.asarray(batch.valid) != 0
        recent = recent_tokens(batch.tokens, batch.valid, count).tokens if count else None
        total, batch_stats = jnp.zeros(()), {}
        for layer, (x, wanted) in _feed_forwards(before, old, batch, placement.layers).items():
            given = variables, layer, x, valid, recent
            y, collections = memory.apply(*given, mutable=[STATISTICS])
            wide = jnp.promote_types(jnp.float32, y.dtype)
            each = jnp.mean(jnp.square(y.astype(wide) - wanted.astype(wide)), axis=-1)
            total += jnp.sum(jnp.where(valid, each, 0)) / jnp.maximum(jnp.sum(valid), 1)
            batch_stats |= follow(params, {STATISTICS: {MEMORY: collections.get(STATISTICS, {})}})
        return total / len(placement.layers), batch_stats

    return loss


def removed_params(config: ModelConfig, before: Params) -> Params:
    """The params of the feed-forwards that memories stand in for, from those ``before`` these."""
    return split(before, partial(is_replaced, config))[0]


def _feed_forwards(
    before: Decoder, params: Params, batch: Batch, layers: tuple[int, ...]
) -> dict[int, tuple[Array, Array]]:
    """Input and output of some feed-forwards of a model, by layer."""
    _, caught = before.apply(
        {"params": unflatten(params)},
        batch.tokens,
        batch.valid,
        method=Decoder.features,
        capture_intermediates=lambda _, method: method in ("normalise", "feed"),
        mutable=["intermediates"],
    )
    sown: Any = caught["intermediates"]
    blocks = {layer: sown[block_path(layer)] for layer in layers}
    return {i: (block["normalise"][0], block["feed"][0]) for i, block in blocks.items()}
