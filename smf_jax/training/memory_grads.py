"""Which rows a batch may change, and their gradients: per step, per micro-batch or per task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from smf_jax.data.batching import Batch
from smf_jax.params import Params
from smf_jax.shapes import Rows, SlotCounts, SlotIds, Table
from smf_jax.sparse.accesses import Accesses, accesses_in_vector, count_reads, counts_at
from smf_jax.sparse.rows import count_with_norms, merge_rows, row_gradient
from smf_jax.sparse.rules import RULES
from smf_jax.sparse.selection import select_in_pools
from smf_jax.sparse.usage import PoolUsage, Protection
from smf_jax.training.memory_model import MemoryModel
from smf_jax.training.reads import (
    ReadGradients,
    accumulate_reads,
    differentiate_reads,
    micro_batches,
)
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.step import Settings


class History(NamedTuple):
    """Rows of a pool that earlier tasks wrote.

    Attributes:
      written: ``(N,)`` bool.
      number: how many.
    """

    written: Bool[Array, " N"]
    number: Int[Array, ""]

    @classmethod
    def of(cls, written: Bool[Array, " N"]) -> History:
        """Counts them."""
        return cls(written, jnp.sum(written, dtype=jnp.int32))

    def joined(self, written: Bool[Array, " N"]) -> History:
        """With those of one more task."""
        return History.of(self.written | written)


class Context(NamedTuple):
    """What selection needs to know beside the batch.

    Attributes:
      usage: background statistics by pool path, or ``None``.
      history: rows written by earlier tasks by pool path, or ``None``.
      task_slots: slots of the task by pool path, or ``None``.
      settings: of the trial.
      step: since the optimizer started.
    """

    usage: Mapping[str, PoolUsage] | None
    history: Mapping[str, History] | None
    task_slots: Mapping[str, SlotIds] | None
    settings: Settings
    step: Int[Array, ""]


class MemoryGrads(NamedTuple):
    """What a batch asks of the rows, and of the scalars.

    Attributes:
      loss: the weighted loss.
      slots: ``(s,)`` by pool path, distinct; unused places hold ``N``.
      gradients: ``(s, v)`` of these rows.
      scalars: gradient of the scalars, by path.
    """

    loss: Float[Array, ""]
    slots: dict[str, SlotIds]
    gradients: dict[str, Rows]
    scalars: Params


def memory_grads(
    model: MemoryModel,
    config: SparseConfig,
    frozen: Params,
    tables: Mapping[str, Table],
    scalars: Params,
    context: Context,
    batch: Batch,
) -> MemoryGrads:
    """Selects the rows of a step and makes their gradients; nothing of ``N`` rows is made.

    Args:
      model: with memories.
      config: static choices.
      frozen: every leaf that is given nowhere else, by path.
      tables: by pool path.
      scalars: trained scalars, by path.
      context: what selection needs to know beside the batch.
      batch: ``(b, t)`` fields.
    """
    slots_of = {pool: table.shape[0] for pool, table in tables.items()}
    if config.granularity != "per_micro_batch":
        found = accumulate_reads(model, frozen, tables, scalars, batch, config.micro_batches)
        key = _key(context)
        return select_and_gather(config, found, batch.valid, context, slots_of, key)

    def one(index: Array, part: Batch) -> tuple[Array, MemoryGrads]:
        found = differentiate_reads(model, frozen, tables, scalars, part)
        key = jax.random.fold_in(_key(context), index)
        own = select_and_gather(config, found, part.valid, context, slots_of, key)
        return index + 1, own

    parts = micro_batches(batch, config.micro_batches)
    _, found = jax.lax.scan(one, jnp.zeros((), jnp.int32), parts)
    merged = {
        pool: merge_rows(
            found.slots[pool].reshape(-1),
            found.gradients[pool].reshape(-1, table.shape[1]) / config.micro_batches,
            table.shape[0],
        )
        for pool, table in tables.items()
    }
    return MemoryGrads(
        jnp.mean(found.loss),
        {pool: slots for pool, (slots, _) in merged.items()},
        {pool: rows for pool, (_, rows) in merged.items()},
        jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), found.scalars),
    )


def select_for_task(
    config: SparseConfig, counts: Mapping[str, SlotCounts], context: Context
) -> dict[str, SlotIds]:
    """The slots of a task, from the accesses of all of its examples, ``(N,)`` by pool path."""
    accesses = {pool: accesses_in_vector(of_pool) for pool, of_pool in counts.items()}
    return _selected(config, accesses, context, _key(context))


def select_and_gather(
    config: SparseConfig,
    found: ReadGradients,
    valid: Bool[Array, "b t"],
    context: Context,
    table_slots: Mapping[str, int],
    key: Array,
) -> MemoryGrads:
    """Selects rows by the reads of a (micro-)batch, and makes their gradients from these.

    Args:
      config: static choices.
      found: what the loss's gradient is made from.
      valid: ``(b, t)``, false on pads.
      context: what selection needs to know beside the reads.
      table_slots: ``N`` by pool path.
      key: for rule ``random``.
    """
    accesses = {
        pool: _accesses(config, found, pool, valid.reshape(-1), table_slots[pool])
        for pool in table_slots
    }
    if config.granularity == "per_task":
        selected = _read_of_task(context.task_slots, accesses)
    else:
        selected = _selected(config, accesses, context, key)
    gradients = {}
    for pool, slots in selected.items():
        rows = row_gradient(found.traces[pool], slots, table_slots[pool])
        if config.count_normalised:
            rows = rows / jnp.maximum(counts_at(accesses[pool], slots), 1)[:, None]
        gradients[pool] = rows
    return MemoryGrads(found.loss, selected, gradients, found.scalars)


def _accesses(
    config: SparseConfig, found: ReadGradients, pool: str, valid: Array, table_slots: int
) -> Accesses:
    """Accesses of a pool, with what the rule scores."""
    traces, amounts = found.traces[pool], RULES[config.rule].amounts
    if amounts == "gradient":
        return count_with_norms(traces, valid, table_slots)
    weights = [trace.weights for trace in traces] if amounts == "mass" else None
    return count_reads([trace.slots for trace in traces], valid, table_slots, weights)


def _selected(
    config: SparseConfig, accesses: Mapping[str, Accesses], context: Context, key: Array
) -> dict[str, SlotIds]:
    usage = context.usage
    if usage is not None and context.history is not None:
        usage = {
            pool: usage[pool]._replace(protection=Protection(*past, config.protect_written))
            for pool, past in context.history.items()
        }
    return select_in_pools(
        accesses,
        usage,
        rule=config.rule,
        top_t=context.settings.budget,
        size=config.size,
        key=key,
        scope=config.budget_scope,
        score_share=config.score_share,
    )


def _read_of_task(
    task_slots: Mapping[str, SlotIds] | None, accesses: Mapping[str, Accesses]
) -> dict[str, SlotIds]:
    """The task's slots that a batch reads: the others have no gradient and do not advance."""
    if task_slots is None:
        raise ValueError("granularity='per_task': select the task's slots before its first step")
    return {
        pool: jnp.where(counts_at(accesses[pool], slots) > 0, slots, accesses[pool].table_slots)
        for pool, slots in task_slots.items()
    }


def _key(context: Context) -> Array:
    return jax.random.fold_in(jax.random.key(context.settings.seed), context.step)
