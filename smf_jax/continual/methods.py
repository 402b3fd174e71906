"""From a trial of the grid to the trainer of its method, and what that trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from smf_jax.continual.base import Base
from smf_jax.continual.config import SweepFlags
from smf_jax.continual.grid import Trial
from smf_jax.continual.stream_data import StreamData
from smf_jax.errors import blame_flag
from smf_jax.models.lora import merge_lora
from smf_jax.params import (
    Params,
    count_bytes,
    count_parameters,
    flatten,
    is_batch_stats,
    is_memory,
    is_pool,
    unflatten,
)
from smf_jax.sparse.selection import budget_size
from smf_jax.sparse.update_rule import UpdateRule
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_step import SparseState
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Settings
from smf_jax.training.trainers import Trainer, dense_trainer, lora_trainer


@dataclass(frozen=True)
class TrainableSummary:
    """What a trial trains, told before its first step.

    Attributes:
      rows: rows of the tables that a step may change, over all pools; ``None`` for dense methods.
      parameters: numbers that a step may change.
      share: the same as a share of the model.
      optimizer_bytes: of the optimizer's state, its index of slots included.
    """

    rows: int | None
    parameters: int
    share: float
    optimizer_bytes: int

    def __str__(self) -> str:
        rows = "" if self.rows is None else f"{self.rows:,} rows, "
        return (
            f"{rows}{self.parameters:,} parameters ({self.share:.2%}), "
            f"optimizer {self.optimizer_bytes:,} bytes"
        )


def static_size(flags: SweepFlags, base: Base, trial: Trial, stream_data: StreamData) -> int:
    """Static number of places ``s`` for the selected rows of a trial's step."""
    placement = base.config.memory
    if placement is None:
        raise ValueError(
            f"--base={flags.base} has no memory, which method smf trains; give --retrofit=add or "
            "--retrofit=replace, or other --methods"
        )
    table_slots = placement.memory.slots
    if trial.slots is not None:
        return min(budget_size(trial.slots), table_slots)
    # Rule `all`: every row that a batch reads, or the whole task where that is what selects.
    length = stream_data.examples[0].tokens.shape[-1]
    rows = flags.batch_size
    if trial.granularity == "per_task":
        rows = max(examples.tokens.shape[0] for examples in stream_data.examples)
    accesses = rows * length * placement.memory.reads_per_token
    return min(table_slots, accesses * len(placement.layers))


def make_trainer(flags: SweepFlags, base: Base, trial: Trial, stream_data: StreamData) -> Trainer:
    """The trainer that the trials of one group share."""
    update = UpdateRule(
        trial.optimizer,  # pyright: ignore[reportArgumentType]
        clip=flags.clip or None,
        schedule=flags.schedule,  # pyright: ignore[reportArgumentType]
        warmup_steps=flags.warmup_steps,
        schedule_steps=flags.steps_per_task,
        weight_decay=flags.weight_decay,
    )
    keep = flags.keep_optimizer_state
    if trial.method == "smf":
        size = static_size(flags, base, trial, stream_data)
        config = SparseConfig(
            rule=trial.rule,  # pyright: ignore[reportArgumentType]
            granularity=trial.granularity,  # pyright: ignore[reportArgumentType]
            micro_batches=flags.micro_batches,
            size=size,
            budget_scope=flags.budget_scope,  # pyright: ignore[reportArgumentType]
            score_share=flags.score_share or None,
            protect_written=flags.protect_written,
            count_normalised=flags.count_normalised,
            update=update,
            train_alpha=flags.train_alpha,
            alpha_rate=flags.alpha_rate,
            alpha_schedule=flags.alpha_schedule,
            mask="gradient" if flags.leaky else "update",
        )
        steps = flags.steps_per_task * (flags.tasks if keep else 1)
        placement = base.config.memory
        table_slots = placement.memory.slots if placement else 0
        capacity = flags.store_rows or min(table_slots, steps * config.places)
        return sparse_trainer(base.model, config, capacity, keep)
    if trial.method == "lora":
        targets = tuple(flags.lora_targets.split(","))
        return lora_trainer(base.model, update, flags.lora_rank, flags.lora_alpha, targets, keep)
    return dense_trainer(base.model, update, keep_optimizer_state=keep)


def settings_of(trial: Trial, size: int) -> Settings:
    """What tells a trial from the others of its group."""
    return Settings(
        learning_rate=jnp.asarray(trial.learning_rate, jnp.float32),
        budget=jnp.asarray(size if trial.slots is None else trial.slots, jnp.int32),
        seed=jnp.asarray(trial.seed, jnp.uint32),
    )


def may_train(flags: SweepFlags, trial: Trial, path: str) -> bool:
    """Whether a method's allow-list has a leaf: what is not on it must never train.

    Method smf may train tables, and α where it is told to; lora the adapters of its targets; full
    and replay all but running statistics.
    """
    *_, owner, leaf = ("", *path.split("/"))
    if trial.method == "smf":
        return is_pool(path) or (flags.train_alpha and is_memory(path) and leaf == "alpha")
    if trial.method == "lora":
        return owner in flags.lora_targets.split(",") and leaf in ("a", "b")
    return not is_batch_stats(path)


def count_trainable(
    flags: SweepFlags, trainer: Trainer, base: Base, trial: Trial
) -> TrainableSummary:
    """Counts what a trial trains, without computing anything; an outline of the base will do.

    Raises:
      RuntimeError: if the trainer would train what the method's allow-list does not have.
    """
    with blame_flag("--lora_" if trial.method == "lora" else ""):
        state = jax.eval_shape(trainer.begin, base.params, settings_of(trial, 1))
    others = [p for p in jax.eval_shape(trainer.trained, state) if not may_train(flags, trial, p)]
    if others:
        raise RuntimeError(f"method {trial.method} must not train {', '.join(sorted(others))}")
    total = count_parameters(base.params)
    if not isinstance(state, SparseState):
        trained = count_parameters(state.params)
        return TrainableSummary(None, trained, trained / total, count_bytes(state.opt_state))
    tables = state.tables.values()
    rows = _rows_of_step(flags, trial, [table.shape[0] for table in tables])
    width = next(iter(tables)).shape[1]
    trained = rows * width + count_parameters(state.scalars)
    held = count_bytes((state.stores, state.scalar_opt_state))
    return TrainableSummary(rows, trained, trained / total, held)


def _rows_of_step(flags: SweepFlags, trial: Trial, table_slots: Sequence[int]) -> int:
    """Rows that a step may change, over all pools."""
    if flags.leaky or trial.slots is None:
        return sum(table_slots)
    parts = flags.micro_batches if trial.granularity == "per_micro_batch" else 1
    if flags.budget_scope == "shared":
        return min(sum(table_slots), trial.slots * parts)
    return sum(min(slots, trial.slots * parts) for slots in table_slots)


def apply_trained(base: Params, trained: Params, lora_alpha: float) -> Params:
    """The leaves of the model that the base and what was trained on it make; adapters are merged.

    Args:
      base: leaves of the base by path.
      trained: leaves in place of the base's, or adapters.
      lora_alpha: scale of the adapters.
    """
    if all(path in base for path in trained):
        return {**base, **trained}
    return flatten(merge_lora(unflatten(base), trained, lora_alpha))


def replayed_rows(flags: SweepFlags, trial: Trial) -> int:
    """Rows of a batch that hold base data; a batch of replay is as large as any other."""
    if trial.method != "replay":
        return 0
    return min(flags.batch_size - 1, max(1, round(flags.batch_size * flags.replay_share)))
