"""Teaching a model a few facts in one call, without a sweep: what comes out is a patch."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from smf_jax.checkpoints.manifest import fingerprint
from smf_jax.data.batching import Batch
from smf_jax.models.decoder import Decoder
from smf_jax.params import Params
from smf_jax.sparse.patch import Patch, diff_params
from smf_jax.sparse.rules import RULES
from smf_jax.sparse.selection import budget_size
from smf_jax.sparse.usage import Background
from smf_jax.tables import packed
from smf_jax.training.background import require_background
from smf_jax.training.memory_model import MemoryModel, as_memory_model
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Settings, Shared


def teach(
    model: Decoder | MemoryModel,
    params: Params,
    batch: Batch,
    background: Background | None,
    *,
    steps: int = 30,
    learning_rate: float = 60.0,
    budget: int = 512,
    config: SparseConfig | None = None,
    task: str = "taught",
    parent: Patch | None = None,
) -> Patch:
    """Sparse memory finetuning on one batch: the rows of its best slots, and nothing else.

    The model is our decoder, or that of `memory_model` or `foreign_tables`. Its ``params`` by path
    hold earlier patches, ``parent`` the last of them, and stay as they are; every step sees the
    ``(b, t)`` batch. The background is of this very model, ``None`` only for rules without. Plain
    SGD wants a learning rate of tens, Adam about 0.03. A step may change ``budget`` rows in each
    pool, by rule ``all`` any that it reads; the ``size`` of ``config`` follows from it.
    `apply_patch` writes what is returned, `revert_patch` takes it back, bit for bit.

    Raises:
      ValueError: the background is another model's.
      FloatingPointError: a loss or a row was not finite; lower the learning rate.
    """
    known = as_memory_model(model)
    if background is not None:
        require_background(background, known, params)
    slots = max(params[table].shape[0] for table in known.tables)
    config = config or SparseConfig()
    size = budget_size(budget) if RULES[config.rule].has_budget else slots
    config = replace(config, size=min(size, slots))
    trainer = sparse_trainer(known, config, min(slots, steps * config.places))
    settings = Settings(jnp.float32(learning_rate), jnp.int32(budget), jnp.uint32(0))
    shared = Shared(trainer.frozen(params), None if background is None else background.pools)
    state = trainer.grow(jax.tree.map(jnp.copy, trainer.begin(params, settings)), steps)
    whole = Batch(*(jnp.asarray(field)[None] for field in batch))
    state = trainer.begin_task(shared, state, whole, settings)
    step = jax.jit(trainer.step, donate_argnums=1)
    for _ in range(steps):
        state, _ = step(shared, state, batch, settings)
    if int(state.failed_step) >= 0:
        raise FloatingPointError(
            f"step {int(state.failed_step)} of {steps}: loss or rows are not finite; lower "
            f"learning_rate={learning_rate}. Nothing was changed"
        )
    base = fingerprint(packed(jax.device_get(params))) if parent is None else parent.base
    after = {**params, **trainer.trained(state)}
    last = None if parent is None else parent.fingerprint
    return diff_params(params, after, task=task, base=base, parent=last, tables=known.tables)
