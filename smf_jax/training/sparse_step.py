"""One step of sparse memory finetuning: the few best rows of the memories, and nothing else.

Slots are counted, the best selected, their rows' gradient made from slots, weights and cotangents
of the reads, and the rows written into the donated table. Guards act on the slot ids: a step that
is not finite writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int

from smf_jax.data.batching import Batch
from smf_jax.models.decoder import Decoder
from smf_jax.shapes import SlotCounts, SlotIds, Table
from smf_jax.sparse.row_store import RowStep, RowStore, step_rows, write_step
from smf_jax.sparse.rows import row_gradient
from smf_jax.sparse.selection import Granularity, Rule, select_slots
from smf_jax.sparse.update_rule import UpdateRule
from smf_jax.sparse.usage import PoolUsage
from smf_jax.training.loss import all_finite
from smf_jax.training.reads import differentiate_reads
from smf_jax.training.state import Flat
from smf_jax.training.step import Settings, StepMetrics, latch, step_leaves


@dataclass(frozen=True)
class SparseChoices:
    """Static choices of a sparse step.

    Attributes:
      rule: how slots are ranked.
      granularity: ``per_step``: every batch ranks its own; ``per_task``: slots are given.
      size: static number of places ``s`` for selected rows.
      update: how a row's gradient becomes its update.
      train_alpha: whether the scales of additive blocks train too (``+S``, 2605.03229).
    """

    rule: Rule = "tfidf"
    granularity: Granularity = "per_step"
    size: int = 64
    update: UpdateRule = UpdateRule()
    train_alpha: bool = False


class SparseState(NamedTuple):
    """What a sparse step changes.

    Attributes:
      tables: ``(N, v)`` by pool path.
      stores: row state by pool path, ``None`` for stateless rules.
      scalars: trained ``α`` by path; empty unless `SparseChoices.train_alpha`.
      scalar_statistics: their optax state.
      task_slots: ``per_task`` only: the slots of this task by pool path, else ``None``.
      written: ``(N,)`` bool by pool path, rows written since the task began.
      step: steps since the optimizer started.
      failed_step: first step whose loss or rows were not finite, or that wanted more row state
        than a store holds, or -1.
    """

    tables: dict[str, Table]
    stores: dict[str, RowStore | None]
    scalars: Flat
    scalar_statistics: Any
    task_slots: dict[str, SlotIds] | None
    written: dict[str, Bool[Array, " N"]]
    step: Int[Array, ""]
    failed_step: Int[Array, ""]


def sparse_step(
    model: Decoder,
    choices: SparseChoices,
    frozen: Flat,
    usage: Mapping[str, PoolUsage] | None,
    state: SparseState,
    batch: Batch,
    settings: Settings,
) -> tuple[SparseState, StepMetrics]:
    """One step of sparse memory finetuning (2510.15103, section 3).

    Args:
      model: a decoder with memories.
      choices: static choices.
      frozen: every leaf that is not in the state, by path.
      usage: background statistics by pool path, or ``None`` for rules without.
      state: before the step.
      batch: ``(b, t)`` fields.
      settings: of the trial.

    Returns:
      The state after the step, and the metrics before it.
    """
    update = choices.update
    loss, traces, counts, scalar_gradients = differentiate_reads(
        model, frozen, state.tables, state.scalars, batch
    )
    selected = {
        pool: _slots_of_step(choices, counts[pool], pool, usage, state, settings)
        for pool in state.tables
    }
    gradients = {
        pool: row_gradient(traces[pool], slots, counts[pool].shape[0])
        for pool, slots in selected.items()
    }
    clipped, clipped_scalars = update.clipped((gradients, scalar_gradients))
    rate = update.rate(settings.learning_rate, state.step)
    steps = {
        pool: step_rows(table, state.stores[pool], selected[pool], clipped[pool], update, rate)
        for pool, table in state.tables.items()
    }
    scalars, statistics = step_leaves(
        update, clipped_scalars, state.scalars, state.scalar_statistics, rate
    )
    accepted = (
        all_finite((loss, gradients, scalar_gradients, scalars))
        & _can_be_written(state.tables, steps)
        & (state.failed_step < 0)
    )
    after, count = _write(state, steps, accepted)
    after = after._replace(
        scalars=optax.tree.where(accepted, scalars, state.scalars),
        scalar_statistics=optax.tree.where(accepted, statistics, state.scalar_statistics),
        step=state.step + 1,
        failed_step=latch(state.failed_step, state.step, accepted),
    )
    return after, StepMetrics(loss, count)


def _slots_of_step(
    choices: SparseChoices,
    counts: SlotCounts,
    pool: str,
    usage: Mapping[str, PoolUsage] | None,
    state: SparseState,
    settings: Settings,
) -> SlotIds:
    """The slots that this step may write."""
    if choices.granularity == "per_step":
        return select_for(choices, counts, None if usage is None else usage[pool], state, settings)
    if state.task_slots is None:
        raise ValueError("granularity='per_task': select the task's slots before its first step")
    # A selected row that this batch did not read has no gradient and does not advance.
    slots = state.task_slots[pool]
    read = counts.at[slots].get(mode="fill", fill_value=0) > 0
    return jnp.where(read, slots, counts.shape[0])


def select_for(
    choices: SparseChoices,
    counts: SlotCounts,
    usage: PoolUsage | None,
    state: SparseState,
    settings: Settings,
) -> SlotIds:
    """Selects by the choices and settings of a trial; see `select_slots`."""
    return select_slots(
        counts,
        usage,
        rule=choices.rule,
        top_t=settings.budget,
        size=choices.size,
        key=jax.random.fold_in(jax.random.key(settings.seed), state.step),
    )


def _can_be_written(tables: Mapping[str, Table], steps: Mapping[str, RowStep]) -> Array:
    """Whether every new row is finite, as its table will hold it, and every store has room."""
    finite = all_finite([step.rows.astype(tables[pool].dtype) for pool, step in steps.items()])
    return finite & ~jnp.any(jnp.stack([step.overflowed for step in steps.values()]))


def _write(
    state: SparseState, steps: Mapping[str, RowStep], accepted: Array
) -> tuple[SparseState, Int[Array, ""]]:
    """The state with the rows of an accepted step in it, and their number."""
    tables, stores, written = {}, {}, {}
    count = jnp.zeros((), jnp.int32)
    for pool, table in state.tables.items():
        tables[pool], stores[pool] = write_step(table, state.stores[pool], steps[pool], accepted)
        slots = jnp.where(accepted, steps[pool].slots, table.shape[0])
        written[pool] = state.written[pool].at[slots].set(True, mode="drop")
        count += jnp.sum(slots < table.shape[0], dtype=jnp.int32)
    return state._replace(tables=tables, stores=stores, written=written), count
