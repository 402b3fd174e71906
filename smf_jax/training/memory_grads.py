"""Which rows a batch may change, and their gradients: per step, per micro-batch or per task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from smf_jax.data.batching import Batch
from smf_jax.mesh import DATA, gather_over, own_rows, sum_over
from smf_jax.models.layers import Segments
from smf_jax.params import Params
from smf_jax.shapes import Rows, SlotCounts, SlotIds
from smf_jax.sparse.accesses import Accesses, accesses_in_vector, count_reads, counts_at
from smf_jax.sparse.rows import count_with_norms, merge_rows, row_gradient
from smf_jax.sparse.rules import RULES
from smf_jax.sparse.selection import select_in_pools
from smf_jax.sparse.usage import PoolUsage, Protection
from smf_jax.training.memory_model import MemoryModel
from smf_jax.training.reads import ReadGradients, differentiate_reads, micro_batches
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.step import Settings


class History(NamedTuple):
    """Rows of a pool that earlier tasks wrote, and how many."""

    written: Bool[Array, " N"]
    number: Int[Array, ""]

    @classmethod
    def of(cls, written: Bool[Array, " N"]) -> History:
        """Counts them."""
        return cls(written, jnp.sum(written, dtype=jnp.int32))


class Context(NamedTuple):
    """What selection needs to know beside the batch; mappings are by pool path, ``None`` unused."""

    usage: Mapping[str, PoolUsage] | None
    history: Mapping[str, History] | None
    task_slots: Mapping[str, SlotIds] | None
    settings: Settings
    step: Int[Array, ""]


class MemoryGrads(NamedTuple):
    """The loss, the rows that a batch selects, and the gradients of these and of the scalars.

    By pool path stand ``(s,)`` distinct slots, unused places holding ``N``, and ``(s, v)`` rows.
    """

    loss: Float[Array, ""]
    slots: dict[str, SlotIds]
    gradients: dict[str, Rows]
    scalars: Params


def memory_grads(
    model: MemoryModel,
    config: SparseConfig,
    params: Params,
    scalars: Params,
    context: Context,
    batch: Batch,
) -> MemoryGrads:
    """Selects the rows of a step and makes their gradients, but nothing of ``N`` rows.

    ``scalars`` are those that train, ``params`` all others. The batch is the whole one, also where
    devices along ``data`` share it.
    """
    slots_of = {pool: params[pool].shape[0] for pool in model.tables}

    def found_in(part: Batch, count: int, key: Array) -> MemoryGrads:
        own = own_rows(part)
        found = differentiate_reads(model, params, scalars, own, count, config.scored)
        return select_and_gather(config, found, own.valid, context, slots_of, key)

    if config.granularity != "per_micro_batch":
        return found_in(batch, config.micro_batches, _key(context))

    def one(index: Array, part: Batch) -> tuple[Array, MemoryGrads]:
        return index + 1, found_in(part, 1, jax.random.fold_in(_key(context), index))

    parts = micro_batches(batch, config.micro_batches)
    _, found = jax.lax.scan(one, jnp.zeros((), jnp.int32), parts)
    slots, gradients = {}, {}
    for pool, size in slots_of.items():
        rows = found.gradients[pool].reshape(-1, params[pool].shape[1]) / config.micro_batches
        slots[pool], gradients[pool] = merge_rows(found.slots[pool].reshape(-1), rows, size)
    scalar_grads = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), found.scalars)
    return MemoryGrads(jnp.mean(found.loss), slots, gradients, scalar_grads)


def select_for_task(
    config: SparseConfig, counts: Mapping[str, SlotCounts], context: Context
) -> dict[str, SlotIds]:
    """The slots of a task, from the accesses of all of its examples, ``(N,)`` by pool path."""
    accesses = {pool: accesses_in_vector(of_pool) for pool, of_pool in counts.items()}
    return _selected(config, accesses, context, _key(context))


def select_and_gather(
    config: SparseConfig,
    found: ReadGradients,
    valid: Segments,
    context: Context,
    table_slots: Mapping[str, int],
    key: Array,
) -> MemoryGrads:
    """Selects rows by a (micro-)batch's reads, makes their gradients; key is for ``random``.

    Reads are those of a device's share of the batch: what is found is of all of it.
    """
    amounts, is_valid, accesses = RULES[config.rule].amounts, valid.reshape(-1) != 0, {}
    traces_of, is_whole = found.traces, amounts == "gradient"
    if is_whole:
        # A norm is no sum: each device looks at the reads of all.
        traces_of, is_valid = gather_over(DATA, (traces_of, is_valid))
    for pool, size in table_slots.items():
        traces = traces_of[pool]
        if amounts == "gradient":
            accesses[pool] = count_with_norms(traces, is_valid, size)
            continue
        weights = [trace.weights for trace in traces] if amounts == "mass" else None
        accesses[pool] = count_reads([trace.slots for trace in traces], is_valid, size, weights)
    if config.granularity == "per_task":
        # The task's slots that the batch reads: the others have no gradient and do not advance.
        if context.task_slots is None:
            raise ValueError(
                "granularity='per_task': select the task's slots before its first step"
            )
        selected = {
            pool: jnp.where(counts_at(accesses[pool], slots) > 0, slots, table_slots[pool])
            for pool, slots in context.task_slots.items()
        }
    else:
        selected = _selected(config, accesses, context, key)
    gradients = {}
    for pool, slots in selected.items():
        rows = row_gradient(traces_of[pool], slots, table_slots[pool])
        rows = rows if is_whole else sum_over(DATA, rows)
        if config.count_normalised:
            rows = rows / jnp.maximum(counts_at(accesses[pool], slots), 1)[:, None]
        gradients[pool] = rows
    return MemoryGrads(found.loss, selected, gradients, found.scalars)


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
        max_df=config.max_df,
    )


def _key(context: Context) -> Array:
    return jax.random.fold_in(jax.random.key(context.settings.seed), context.step)
