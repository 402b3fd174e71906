"""One step of sparse memory finetuning: the few best rows of the memories, and nothing else.

Slots are counted, the best selected, their rows' gradient made from slots, weights and cotangents
of the reads, and the rows written into the donated table. Guards act on the slot ids: a step that
is not finite writes nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int

from smf_jax.data.batching import Batch
from smf_jax.losses import all_finite
from smf_jax.params import Params
from smf_jax.shapes import SlotIds
from smf_jax.sparse.row_optimizer import RowStore, step_rows, write_step
from smf_jax.sparse.rows import write_rows
from smf_jax.sparse.rules import check_rule
from smf_jax.training.memory_grads import Context, History, MemoryGrads, memory_grads
from smf_jax.training.memory_model import MemoryModel
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.step import Lower, Settings, Shared, StepMetrics, latch, step_params


class SparseState(NamedTuple):
    """What a sparse step changes."""

    tables: dict[str, Any]  # `AnyTable` ``(N, v)`` by pool path
    stores: dict[str, RowStore | None]  # row state by pool path, ``None`` for stateless rules
    scalars: Params  # trained ``α`` by path; empty unless `SparseConfig.train_alpha`
    # Their optax state; with ``mask="gradient"`` the tables' stands here too.
    scalar_opt_state: optax.OptState
    task_slots: dict[str, SlotIds] | None  # of this task by pool path; ``per_task`` only
    written: dict[str, Bool[Array, " N"]]  # by pool path, rows written since the task began
    step: Int[Array, ""]  # steps since the optimizer started
    # First step that was not finite, or wanted more rows than a store holds, or -1.
    failed_step: Int[Array, ""]
    # By pool path the rows written by earlier tasks; only with `SparseConfig.protect_written`.
    history: dict[str, History] | None = None


def sparse_step(
    model: MemoryModel,
    config: SparseConfig,
    shared: Shared,
    state: SparseState,
    batch: Batch,
    settings: Settings,
) -> tuple[SparseState, StepMetrics]:
    """One sparse step (2510.15103, section 3): the state after it, and the metrics before it."""
    check_rule(config.rule, shared.usage)
    context = Context(shared.usage, state.history, state.task_slots, settings, state.step)
    model = going_on(model, shared.lower)
    params = {**shared.frozen, **state.tables}
    found = memory_grads(model, config, params, state.scalars, context, batch)
    advance = _move_whole_tables if config.mask == "gradient" else _move_selected_rows
    after, accepted, count = advance(config, state, found, settings)
    after = after._replace(
        step=state.step + 1, failed_step=latch(state.failed_step, state.step, accepted)
    )
    return after, StepMetrics(found.loss, count)


def going_on(model: MemoryModel, lower: Lower | None) -> MemoryModel:
    """The model that begins where the lowest memory stands, if what comes before it is known."""
    if lower is None:
        return model

    def apply(params: Params, tokens: Array, *more: Any) -> Any:
        return model.apply(params, tokens, *more, lower=lower.of(tokens))

    return model._replace(apply=apply)


def _move_selected_rows(
    config: SparseConfig, state: SparseState, found: MemoryGrads, settings: Settings
) -> tuple[SparseState, Bool[Array, ""], Int[Array, ""]]:
    """The state one update on, whether it was accepted, and how many rows it wrote."""
    optimizer, inner = config.optimizer, config.optimizer.transformation()
    clipped, clipped_scalars = optimizer.clipped((found.gradients, found.scalars))
    rate = optimizer.rate(settings.learning_rate, state.step)
    steps = {
        pool: step_rows(table, state.stores[pool], found.slots[pool], clipped[pool], inner, rate)
        for pool, table in state.tables.items()
    }
    before = (state.scalars, state.scalar_opt_state)
    alpha_rate = rate if config.alpha_schedule else jnp.asarray(settings.learning_rate)
    after = step_params(inner, clipped_scalars, *before, config.alpha_rate * alpha_rate)
    # Every new row has to be finite as its table will hold it, and every store to have room.
    rows = [step.rows.astype(state.tables[pool].dtype) for pool, step in steps.items()]
    accepted = (
        all_finite((found.loss, found.gradients, found.scalars, after[0], rows))
        & ~jnp.any(jnp.stack([step.overflowed for step in steps.values()]))
        & (state.failed_step < 0)
    )
    scalars, opt_state = optax.tree.where(accepted, after, before)
    tables, stores, written, count = {}, {}, {}, jnp.zeros((), jnp.int32)
    for pool, table in state.tables.items():
        tables[pool], stores[pool] = write_step(table, state.stores[pool], steps[pool], accepted)
        slots = jnp.where(accepted, steps[pool].slots, table.shape[0])
        moving = slots
        if state.history is not None:
            # Those that stay as they are, to the number, are none that a resume would find.
            moving = jnp.where(steps[pool].moves, slots, table.shape[0])
        written[pool] = state.written[pool].at[moving].set(True, mode="drop")
        count += jnp.sum(slots < table.shape[0], dtype=jnp.int32)
    moved = state._replace(
        tables=tables, stores=stores, scalars=scalars, scalar_opt_state=opt_state, written=written
    )
    return moved, accepted, count


def _move_whole_tables(
    config: SparseConfig, state: SparseState, found: MemoryGrads, settings: Settings
) -> tuple[SparseState, Bool[Array, ""], Int[Array, ""]]:
    """The same where only the gradient is masked; the rows counted are those that passed it."""
    optimizer, params = config.optimizer, {**state.tables, **state.scalars}
    inner = optimizer.transformation()
    masked = {
        pool: write_rows(jnp.zeros_like(table), found.slots[pool], found.gradients[pool])
        for pool, table in state.tables.items()
    }
    gradients = optimizer.clipped({**masked, **found.scalars})
    rate = optimizer.rate(settings.learning_rate, state.step)
    moved, opt_state = step_params(inner, gradients, params, state.scalar_opt_state, rate)
    accepted = all_finite((found.loss, gradients, moved)) & (state.failed_step < 0)
    after = state._replace(
        tables={pool: moved[pool] for pool in state.tables},
        scalars={path: moved[path] for path in state.scalars},
        scalar_opt_state=opt_state,
        written={
            pool: written | jnp.any(moved[pool] != state.tables[pool], axis=1)
            for pool, written in state.written.items()
        },
    )
    after = optax.tree.where(accepted, after, state)
    passed = [ids < len(params[pool]) for pool, ids in found.slots.items()]
    count = sum(jnp.sum(of_pool, dtype=jnp.int32) for of_pool in passed)
    return after, accepted, jnp.where(accepted, count, 0)
