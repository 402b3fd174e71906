"""Sparse memory finetuning (2510.15103): the few best rows of the memories, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from smf_jax.configuration import Configuration, setting
from smf_jax.continual.methods.method import Method, Setup, TrainableSummary, optimizer_of
from smf_jax.continual.sections import TrainingConfig
from smf_jax.continual.trial import Trial
from smf_jax.errors import blame_flag
from smf_jax.params import count_bytes, count_parameters, is_memory, is_pool
from smf_jax.sparse.selection import BudgetScope, budget_size
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.trainers import Trainer


@dataclass(frozen=True)
class SmfConfig(Configuration):
    """Settings of sparse memory finetuning beside the axes of the grid; all off by default."""

    train_alpha: bool = setting(False, "also train the scale α of --retrofit=add")
    alpha_rate: float = setting(1.0, "rate of α, as a multiple of the rows'")
    alpha_schedule: bool = setting(True, "whether the rate of α follows --schedule")
    micro_batches: int = setting(1, "parts of a batch that are run one after another")
    budget_scope: BudgetScope = setting(
        "per_layer", "per_layer: a budget for each pool; shared: one for all together"
    )
    score_share: float = setting(
        0.0,
        "adaptive budget: no more than the best slots that cover this share of the score; 0: off",
    )
    max_df: float = setting(
        1.0,
        "share of background batches that may touch a slot; more frequent ones are never written",
        least=0,
        most=1,
    )
    protect_written: float = setting(
        0.0,
        "rows that earlier tasks wrote count as used in so often as all background batches; 0: no",
    )
    count_normalised: bool = setting(False, "divide a row's gradient by its number of reads")
    leaky: bool = setting(
        False, "mask the gradient and not the update, as 2605.03229 published: rows leak"
    )
    store_rows: int = setting(
        0, "rows with optimizer state per pool; 0: all that a task can select", least=0
    )


class Smf(Method[SmfConfig]):
    """Sparse memory finetuning."""

    name = "smf"
    about = "sparse memory finetuning"
    colour = "#0072B2"
    config = SmfConfig
    optimizer = "sgd"
    learning_rates: ClassVar = {
        "sgd": (60.0, 120.0),
        "momentum": (3.0,),
        "adam": (3e-2,),
        "adamw": (3e-2,),
    }
    is_sparse = True
    artefact = "patch"

    def check(self, setup: Setup, has_text: bool) -> None:
        """Refuses to train an α that is not there, or rows that do not exist."""
        placement = setup.base.config.memory
        if setup.own.leaky and placement is not None and placement.init_rows == "zero":
            raise ValueError(
                "--leaky moves every row, and a table that started at zero holds those written "
                "only; retrofit with --memory_init=normal, or leave the flag out"
            )
        if setup.own.train_alpha and placement is not None and not placement.has_alpha:
            raise ValueError(
                "--train_alpha: the memory has no α; retrofit with --retrofit=add and --alpha=1, "
                "or leave the flag out"
            )

    def check_trial(self, own: SmfConfig, training: TrainingConfig, trial: Trial) -> None:
        """Refuses rules and settings that exclude each other, as what a rule does not count."""
        with blame_flag("--"):
            _sparse_config(own, training, trial, size=1)

    def trainer(self, setup: Setup, trial: Trial) -> Trainer:
        """Trains the selected rows, and α if told so."""
        own: SmfConfig = setup.own
        training, model = setup.training, setup.base.config
        size = self.size(setup, trial)
        sparse = _sparse_config(own, training, trial, size, setup.scored)
        steps = training.steps_per_task * (setup.tasks if training.keep_optimizer_state else 1)
        table_slots = model.memory.memory.slots if model.memory else 0
        capacity = own.store_rows or min(table_slots, steps * sparse.places)
        return sparse_trainer(setup.base.model, sparse, capacity, training.keep_optimizer_state)

    def may_train(self, own: SmfConfig, path: str) -> bool:
        """Tables, and α where it is told to."""
        is_alpha = is_memory(path) and path.endswith("/alpha")
        return is_pool(path) or (own.train_alpha and is_alpha)

    def may_split_tables(self, own: SmfConfig) -> bool:
        """Rows may be anywhere, unless all of them move."""
        return not own.leaky

    def limits(self, own: SmfConfig) -> str:
        """A store that was made smaller than a task may need."""
        wanted = f", or it wanted more rows than --store_rows={own.store_rows}"
        return wanted if own.store_rows else ""

    def size(self, setup: Setup, trial: Trial) -> int:
        """The size step that holds the budget; without a budget every row that a batch reads."""
        placement = setup.base.config.memory
        if placement is None:
            raise ValueError(
                f"--base ({setup.base.origin}) has no memory, which method smf trains; give "
                "--retrofit=add or --retrofit=replace, or other --methods"
            )
        table_slots = placement.memory.slots
        if trial.slots is not None:
            return min(budget_size(trial.slots), table_slots)
        # The whole task where that is what selects.
        length = setup.examples[0].tokens.shape[-1]
        rows = setup.training.batch_size
        if trial.granularity == "per_task":
            rows = max(examples.tokens.shape[0] for examples in setup.examples)
        accesses = rows * length * placement.memory.reads_per_token
        return min(table_slots, accesses * len(placement.layers))

    def trained_of(self, setup: Setup, trial: Trial, state: Any) -> TrainableSummary:
        """Counts the rows of a step, their numbers and the scales."""
        tables = state.tables.values()
        rows = _rows_of_step(setup.own, trial, [table.shape[0] for table in tables])
        width = next(iter(tables)).shape[1]
        trained = rows * width + count_parameters(state.scalars)
        held = count_bytes((state.stores, state.scalar_opt_state))
        return TrainableSummary(rows, trained, trained / setup.base.parameters(), held)


def _sparse_config(
    own: SmfConfig, training: TrainingConfig, trial: Trial, size: int, scored: int | None = None
) -> SparseConfig:
    """How a trial selects its rows; ``size`` and ``scored`` are those of `SparseConfig`."""
    return SparseConfig(
        rule=trial.rule or "",
        granularity=trial.granularity,  # pyright: ignore[reportArgumentType]
        micro_batches=own.micro_batches,
        size=size,
        budget_scope=own.budget_scope,
        score_share=own.score_share or None,
        max_df=own.max_df,
        protect_written=own.protect_written,
        count_normalised=own.count_normalised,
        optimizer=optimizer_of(training, trial),
        train_alpha=own.train_alpha,
        alpha_rate=own.alpha_rate,
        alpha_schedule=own.alpha_schedule,
        mask="gradient" if own.leaky else "update",
        scored=scored,
    )


def _rows_of_step(own: SmfConfig, trial: Trial, table_slots: Sequence[int]) -> int:
    """Rows that a step may change, over all pools."""
    if own.leaky or trial.slots is None:
        return sum(table_slots)
    parts = own.micro_batches if trial.granularity == "per_micro_batch" else 1
    if own.budget_scope == "shared":
        return min(sum(table_slots), trial.slots * parts)
    return sum(min(slots, trial.slots * parts) for slots in table_slots)
