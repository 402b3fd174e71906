"""Measuring the background: how general text uses the slots of one base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from operator import add

import jax
import numpy as np

from smf_jax.checkpoints.manifest import fingerprint
from smf_jax.data.batching import Batch
from smf_jax.models.config import ModelConfig
from smf_jax.models.decoder import Decoder, upstream_of_reads
from smf_jax.params import Params, split
from smf_jax.sparse.usage import Background, PoolUsage, add_batch, no_usage
from smf_jax.tables import packed
from smf_jax.training.memory_model import MemoryModel, as_memory_model
from smf_jax.training.reads import read_counts


def routing_fingerprint(config: ModelConfig, params: Params) -> str:
    """Fingerprint of all params upstream of the reads, which background statistics belong to."""
    return _fingerprint(params, partial(upstream_of_reads, config))


def measure_background(
    model: Decoder | MemoryModel,
    params: Params,
    batches: Batch | Sequence[Batch],
    *,
    corpus: str = "",
    tokenizer: str = "",
    progress: Callable[[int], None] = lambda _: None,
) -> Background:
    """Counts the reads of general text, ``(B, b, t)``, batch by batch.

    The rows of a batch may come in several parts of their own ``b`` and ``t``, counted as one.
    ``corpus`` is a name, ``tokenizer`` a fingerprint; ``progress`` is given the batches done.
    """
    model = as_memory_model(model)

    parts: Sequence[Batch] = (batches,) if isinstance(batches, Batch) else batches

    @partial(jax.jit, donate_argnums=0)
    def count(
        usage: dict[str, PoolUsage], params: Params, batch: Sequence[Batch]
    ) -> dict[str, PoolUsage]:
        # An argument and no closure: constants of a program would hold the model twice.
        counts = [read_counts(model, params, part) for part in batch]
        return {
            pool: add_batch(usage[pool], reduce(add, (each[pool] for each in counts)))
            for pool in usage
        }

    usage = {table: no_usage(params[table].shape[0]) for table in model.tables}
    (total,) = {part.tokens.shape[0] for part in parts}
    for index in range(total):
        batch = tuple(Batch(*(field[index] for field in part)) for part in parts)
        usage = count(usage, params, batch)
        progress(index + 1)
    return Background(
        pools=usage,
        tokens_per_batch=round(sum(float(np.sum(part.valid != 0)) for part in parts) / total),
        corpus=corpus,
        tokenizer=tokenizer,
        fingerprint=_fingerprint(params, model.is_upstream),
        routing=dict(model.routing),
    )


def require_background(
    background: Background, model: Decoder | MemoryModel, params: Params, tokenizer: str = ""
) -> None:
    """Refuses statistics of another model, by its params upstream of reads or its memories.

    Those of another tokenizer too, if its fingerprint is given.
    """
    model = as_memory_model(model)
    upstream = _fingerprint(params, model.is_upstream)
    background.require(upstream, tokenizer or background.tokenizer)
    background.require_memory(model.routing, {t: params[t].shape[0] for t in model.tables})


def _fingerprint(params: Params, is_upstream: Callable[[str], bool]) -> str:
    return fingerprint(packed(jax.device_get(split(params, is_upstream)[0])))
