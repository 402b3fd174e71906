"""The step as 2605.03229 published it: the gradient is masked, the update is not.

AdamW then keeps moving every row that it has moments of, and decay moves every row of the table:
rows that were never selected change, and the state is as large as the dense one. It exists so that
the published numbers can be reproduced and the leak be measured; `sparse_step` is the method.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import optax

from smf_jax.data.batching import Batch
from smf_jax.losses import all_finite
from smf_jax.models.decoder import Decoder
from smf_jax.params import Params
from smf_jax.sparse.rows import write_rows
from smf_jax.sparse.usage import PoolUsage
from smf_jax.training.memory_grads import Context, memory_grads
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_step import SparseState
from smf_jax.training.step import Settings, StepMetrics, latch, step_params


def leaky_params(state: SparseState) -> Params:
    """The leaves that the optimizer of a leaky step holds state of: whole tables, and scalars."""
    return {**state.tables, **state.scalars}


def leaky_step(
    model: Decoder,
    config: SparseConfig,
    frozen: Params,
    usage: Mapping[str, PoolUsage] | None,
    state: SparseState,
    batch: Batch,
    settings: Settings,
) -> tuple[SparseState, StepMetrics]:
    """One step with a masked gradient and an unmasked update.

    Args:
      model: a decoder with memories.
      config: static choices.
      frozen: every leaf that is not in the state, by path.
      usage: background statistics by pool path, or ``None`` for rules without.
      state: before the step; `SparseState.scalar_statistics` is that of `leaky_params`.
      batch: ``(b, t)`` fields.
      settings: of the trial.

    Returns:
      The state after the step, and the metrics before it; ``selected`` counts the rows whose
      gradient passed the mask, ``written`` those that moved.
    """
    optimizer = config.optimizer
    context = Context(usage, state.history, state.task_slots, settings, state.step)
    found = memory_grads(model, config, frozen, state.tables, state.scalars, context, batch)
    masked = {
        pool: write_rows(jnp.zeros_like(table), found.slots[pool], found.gradients[pool])
        for pool, table in state.tables.items()
    }
    params = leaky_params(state)
    gradients = optimizer.clipped({**masked, **found.scalars})
    rate = optimizer.rate(settings.learning_rate, state.step)
    moved, opt_state = step_params(
        optimizer.transformation(), gradients, params, state.scalar_opt_state, rate
    )
    accepted = all_finite((found.loss, gradients, moved)) & (state.failed_step < 0)
    after = optax.tree.where(accepted, moved, params)
    tables = {pool: after[pool] for pool in state.tables}
    selected = sum(
        jnp.sum(slots < tables[pool].shape[0], dtype=jnp.int32)
        for pool, slots in found.slots.items()
    )
    return state._replace(
        tables=tables,
        scalars={path: after[path] for path in state.scalars},
        scalar_opt_state=optax.tree.where(accepted, opt_state, state.scalar_opt_state),
        written={
            pool: written | jnp.any(tables[pool] != state.tables[pool], axis=1)
            for pool, written in state.written.items()
        },
        step=state.step + 1,
        failed_step=latch(state.failed_step, state.step, accepted),
    ), StepMetrics(found.loss, jnp.where(accepted, selected, 0))
