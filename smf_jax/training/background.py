"""Measuring the background: how general text uses the slots of one base."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from smf_jax.checkpoints.manifest import fingerprint
from smf_jax.data.batching import Batch
from smf_jax.memory.layer import ROUTING
from smf_jax.models.config import ModelConfig
from smf_jax.models.decoder import Decoder
from smf_jax.params import Params
from smf_jax.sparse.usage import Background, PoolUsage, add_batch, no_usage
from smf_jax.training.reads import pool_path, read_counts

# Leaves of a block that a read of that block depends on.
_BEFORE_READ = ("attention_norm/", "attention/", "feed_forward_norm/")


def upstream_of_reads(config: ModelConfig, path: str) -> bool:
    """Whether a leaf has a say in which slots are read.

    That is everything below the highest memory layer, and of that layer whatever stands before
    its read. The table that only the highest layer reads is not among them: writing its rows moves
    no routing.

    Args:
      config: of a model with memories.
      path: of the leaf.
    """
    placement = config.memory
    if placement is None:
        raise ValueError("the model has no memory, so nothing is upstream of a read")
    highest = max(placement.layers)
    module, _, rest = path.partition("/")
    if module == "embedder":
        return True
    if module.startswith("layers_"):
        layer = int(module.removeprefix("layers_"))
        return layer < highest or (layer == highest and rest.startswith(_BEFORE_READ))
    if module != "memory":
        return False
    part, _, leaf = rest.partition("/")
    kind, _, number = part.rpartition("_")
    if kind == "pool":
        lower = [layer for layer in placement.layers if layer < highest]
        return any(placement.pool_of(layer) == int(number) for layer in lower)
    return int(number) < highest or leaf.startswith(ROUTING)


def routing_fingerprint(config: ModelConfig, params: Params) -> str:
    """Fingerprint of all leaves upstream of the reads, which background statistics belong to."""
    upstream = {p: leaf for p, leaf in params.items() if upstream_of_reads(config, p)}
    return fingerprint(jax.device_get(upstream))


def measure_background(
    model: Decoder,
    params: Params,
    batches: Batch,
    *,
    corpus: str,
    tokenizer: str,
    progress: Callable[[int], None] = lambda _: None,
) -> Background:
    """Counts the reads of general text, batch by batch.

    Args:
      model: the base, with memories.
      params: its leaves by path.
      batches: ``(B, b, t)`` fields.
      corpus: name of the text, recorded.
      tokenizer: fingerprint of the tokenizer, recorded.
      progress: called with the number of batches done.

    Returns:
      Statistics with the base's fingerprint in them.
    """
    placement = model.config.memory
    if placement is None:
        raise ValueError("the model has no memory, so text uses no slots; retrofit it first")

    @partial(jax.jit, donate_argnums=0)
    def add(usage: dict[str, PoolUsage], params: Params, batch: Batch) -> dict[str, PoolUsage]:
        # An argument and no closure: constants of a program would hold the model twice.
        counts = read_counts(model, params, batch)
        return {pool: add_batch(usage[pool], counts[pool]) for pool in usage}

    usage = {pool_path(pool): no_usage(placement.memory.slots) for pool in placement.pools}
    total = batches.tokens.shape[0]
    for index in range(total):
        usage = add(usage, params, Batch(*(field[index] for field in batches)))
        progress(index + 1)
    return Background(
        pools=usage,
        tokens_per_batch=round(float(np.sum(batches.valid)) / total),
        corpus=corpus,
        tokenizer=tokenizer,
        fingerprint=routing_fingerprint(model.config, params),
    )
