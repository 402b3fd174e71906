"""What a method of a sweep is: its defaults, its trainer, and what may change and is kept of it.

A method is one file beside this one and one line in the list of the package. Nothing else asks for
a method by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from smf_jax.bases.base import Base
from smf_jax.configuration import Configuration
from smf_jax.continual.sections import TrainingConfig
from smf_jax.continual.trial import Trial
from smf_jax.data.batching import Batch
from smf_jax.losses import count_scored
from smf_jax.params import Params, count_bytes, count_parameters, is_batch_stats, pool_path
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.split_tables import TableLayout
from smf_jax.training.step import Settings
from smf_jax.training.trainers import Trainer

# What a task leaves on disk: a patch of rows; parameters in place of the base's; or adapters.
Artefact = Literal["patch", "leaves", "adapters"]
Own = TypeVar("Own", bound=Configuration)

# From gentle to strong: a method's frontier is its sweep of the rate, not one point of it.
DENSE_RATES = {
    "sgd": (1e-2, 3e-2, 1e-1),
    "momentum": (1e-3, 3e-3, 1e-2),
    "adam": (1e-5, 3e-5, 1e-4),
    "adamw": (3e-5, 1e-4, 3e-4),
}


@dataclass(frozen=True)
class NoConfig(Configuration):
    """The settings of a method that has none."""


class Setup(NamedTuple):
    """What the trainers of a sweep are made for."""

    own: Any  # the settings of the method
    training: TrainingConfig  # those that all methods share
    tasks: int  # of the stream
    base: Base  # with its memory; an abstract one will do for all that is not computed
    # Per task, its facts in their training paraphrases, in the rows of batches, ``(rows, t)``.
    examples: tuple[Batch, ...]
    table_layout: TableLayout = "columns"  # where devices share the tables

    @property
    def scored(self) -> int | None:
        """Most targets of weight in a row of any example; ``None`` where there is no example."""
        return max((count_scored(batch.weights) for batch in self.examples), default=None)


@dataclass(frozen=True)
class TrainableSummary:
    """What a trial trains, told before its first step."""

    # Rows of the tables that a step may change, over all pools; ``None`` for dense methods.
    rows: int | None
    parameters: int  # numbers that a step may change
    share: float  # the same as a share of the model
    optimizer_bytes: int  # of the optimizer's state, its index of slots included

    def __str__(self) -> str:
        rows = "" if self.rows is None else f"{self.rows:,} rows, "
        return (
            f"{rows}{self.parameters:,} parameters ({self.share:.2%}), "
            f"optimizer {self.optimizer_bytes:,} bytes"
        )


class Method(Generic[Own]):
    """A method of finetuning; subclasses set the attributes and make the trainer."""

    name: ClassVar[str]  # in flags, results and pictures
    about: ClassVar[str]  # what it is, in a line
    colour: ClassVar[str]  # in pictures
    config: type[Own]  # the section of its settings, which become flags
    optimizer: ClassVar[str] = "adamw"  # the default
    # By optimizer, the rates of its default sweep.
    learning_rates: ClassVar[Mapping[str, tuple[float, ...]]] = DENSE_RATES
    # Whether it selects rows, hence has the axes slots, rule and granularity.
    is_sparse: ClassVar[bool] = False
    artefact: ClassVar[Artefact] = "leaves"  # what a task leaves on disk

    def check(self, setup: Setup, has_text: bool) -> None:
        """Refuses a setup that the method cannot run in, before anything is computed."""

    def check_trial(self, own: Own, training: TrainingConfig, trial: Trial) -> None:
        """Refuses settings of a trial that exclude each other, whatever base and data are."""

    def trainer(self, setup: Setup, trial: Trial) -> Trainer:
        """The trainer that the trials of one group share."""
        raise NotImplementedError

    def may_train(self, own: Own, path: str) -> bool:
        """Whether the method's allow-list has a leaf: what is not on it must never train."""
        return not is_batch_stats(path)

    def may_split_tables(self, own: Own) -> bool:
        """Whether devices may share the tables: not where all of their numbers train together."""
        return not self.may_train(own, pool_path(0))

    def size(self, setup: Setup, trial: Trial) -> int:
        """Static number of places ``s`` for the selected rows of a trial's step."""
        return 1

    def base_rows(self, own: Own, batch_size: int) -> int:
        """Rows of a batch that hold general text; a batch is as large as any other method's."""
        return 0

    def earlier_share(self, own: Own) -> float:
        """Share of a task's rows that are of earlier tasks."""
        return 0.0

    def limits(self, own: Own) -> str:
        """Further reasons for which a step may write nothing, to be told where one did."""
        return ""

    def apply(self, own: Own, base: Params, saved: Params) -> Params:
        """The parameters of the model that a base and what a trial has saved make."""
        return {**base, **saved}

    def trained_of(self, setup: Setup, trial: Trial, state: Any) -> TrainableSummary:
        """Counts what a state of the trainer trains."""
        parameters = count_parameters(state.params)
        total = setup.base.parameters()
        return TrainableSummary(None, parameters, parameters / total, count_bytes(state.opt_state))

    def summary(self, setup: Setup, trainer: Trainer, trial: Trial) -> TrainableSummary:
        """Counts what a trial trains, without computing anything.

        Raises RuntimeError if the trainer would train what is not on the method's allow-list.
        """
        state = jax.eval_shape(trainer.begin, setup.base.params, settings_of(trial, 1))
        trained = jax.eval_shape(trainer.trained, state)
        others = [path for path in trained if not self.may_train(setup.own, path)]
        if others:
            raise RuntimeError(f"method {self.name} must not train {', '.join(sorted(others))}")
        return self.trained_of(setup, trial, state)


def share_of_rows(share: float, batch_size: int) -> int:
    """A share of a batch in rows, at least a row and never all of them."""
    return min(batch_size - 1, max(1, round(batch_size * share)))


def optimizer_of(training: TrainingConfig, trial: Trial) -> OptimizerConfig:
    """The optimizer of a trial, with the schedule of a task."""
    return OptimizerConfig(
        trial.optimizer,
        clip=training.clip or None,
        schedule=training.schedule,
        warmup_steps=training.warmup_steps,
        schedule_steps=training.steps_per_task,
        weight_decay=training.weight_decay,
    )


def settings_of(trial: Trial, size: int) -> Settings:
    """What tells a trial from the others of its group."""
    return Settings(
        learning_rate=jnp.asarray(trial.learning_rate, jnp.float32),
        budget=jnp.asarray(size if trial.slots is None else trial.slots, jnp.int32),
        seed=jnp.asarray(trial.seed, jnp.uint32),
    )
