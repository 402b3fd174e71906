"""How long a sweep will take, predicted from a step of each of its groups; an estimate.

Steps are compiled and run for real, on a base of the shapes of the sweep's own: numbers of a model
do not decide how long a step takes. Probes of facts take at most as long as is found here, where
nothing is answered and all accepted answers of every question are tried.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from smf_jax.bases.base import Base
from smf_jax.bases.retrofitting import check_retrofit
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.devices import mesh_for
from smf_jax.continual.methods import METHODS
from smf_jax.continual.methods.method import settings_of
from smf_jax.continual.plan import setup_of
from smf_jax.continual.scores import measure
from smf_jax.continual.stream_data import StreamData
from smf_jax.continual.sweep import Checked, Tools
from smf_jax.continual.task_input import task_input
from smf_jax.continual.trial import Trial, by_group
from smf_jax.continual.trial_group import TrialGroup
from smf_jax.evaluation.probe import refer_to_base
from smf_jax.evaluation.scorer import Scorer
from smf_jax.params import pool_path
from smf_jax.progress import say
from smf_jax.sparse.usage import PoolUsage
from smf_jax.tables import empty_table, is_implicit

NOTE = (
    "an estimate, from a few timed steps of each group: what it takes to make, heal and ask the "
    "base, to measure the background and to save is not in it"
)
_STEPS = 3  # timed of each group, where a task has as many
Made = TypeVar("Made")


@dataclass(frozen=True)
class Evaluation:
    """What measuring after a task takes, found once for a sweep."""

    compile_seconds: float
    seconds: float  # mean over the tasks of the stream, of which ever more are asked


@dataclass(frozen=True)
class GroupCost:
    """What the trials of one static shape will take."""

    trials: tuple[str, ...]  # by id
    rounds: int  # of as many trials as there are devices
    tasks: int
    steps: int  # of a task
    compile_seconds: float  # of the step and of what begins and ends a task
    step_seconds: float
    task_seconds: float  # of what begins and ends a task
    evaluation: Evaluation

    @property
    def seconds(self) -> float:
        """Of the whole group."""
        task = self.task_seconds + self.steps * self.step_seconds + self.evaluation.seconds
        compiling = self.compile_seconds + self.evaluation.compile_seconds
        return compiling + self.rounds * self.tasks * task

    def to_json(self) -> dict[str, Any]:
        """All of it, with the hours."""
        return {**asdict(self), "hours": self.seconds / 3600}

    def __str__(self) -> str:
        return (
            f"{', '.join(self.trials)}: {self.step_seconds:.4g} s a step x {self.steps} steps x "
            f"{self.tasks} tasks x {self.rounds} rounds of trials, "
            f"{self.task_seconds + self.evaluation.seconds:.3g} s more a task, "
            f"{self.compile_seconds + self.evaluation.compile_seconds:.3g} s of compiling: "
            f"{self.seconds / 3600:.3g} h"
        )


def calibrate(
    config: SweepConfig, trials: Sequence[Trial], checked: Checked, tools: Tools
) -> list[GroupCost]:
    """Times a step of each group of a sweep that was checked; nothing is written."""
    data, has_text = checked.stream_data, checked.stream_data.general is not None
    base = checked.base
    if config.retrofit.is_wanted:
        base = check_retrofit(config.retrofit, base, has_text)
    base = _stand_in(base)
    evaluation, costs = None, []
    for group in by_group(trials):
        say(f"calibrating {len(group)} trials such as {group[0].id}")
        cost, evaluation = _time(config, group, base, data, tools, evaluation)
        costs.append(cost)
    return costs


def _time(
    config: SweepConfig,
    trials: Sequence[Trial],
    base: Base,
    data: StreamData,
    tools: Tools,
    evaluation: Evaluation | None,
) -> tuple[GroupCost, Evaluation]:
    """Times one group, and measures its trials where no group before it has."""
    method, setup = METHODS[trials[0].method], setup_of(config, trials[0], base, data)
    mesh = mesh_for(config.devices, len(trials))
    usage = _no_usage(base) if method.is_sparse else None
    rows, trainer = config.probes.eval_batch_size, method.trainer(setup, trials[0])
    group = tools.make_group(setup, trials[0], trainer, usage, mesh, rows)
    own = trials[: group.size]
    state, settings = group.begin([settings_of(t, method.size(setup, t)) for t in own])
    told, steps = task_input(method, setup, data, own, 0), config.training.steps_per_task

    def last(count: int) -> Callable[[], Any]:
        """The last steps of a task, which are as good as its first."""

        def run() -> None:
            nonlocal state
            more = (told.batches, told.examples, settings, told.rows)
            state, _ = group.train(state, *more, first=steps - count)

        return run

    _, first = _timed(last(1))
    _, one = _timed(last(1))
    step = one
    if (more := min(_STEPS, steps - 1)) > 0:
        _, several = _timed(last(1 + more))
        step = max(0.0, (several - one) / more)
    if evaluation is None:
        evaluation = _time_evaluation(group, state, base, data, Scorer(base.model, rows))
    cost = GroupCost(
        trials=tuple(trial.id for trial in trials),
        rounds=math.ceil(len(trials) / group.size),
        tasks=len(data.tasks),
        steps=steps,
        compile_seconds=max(0.0, first - one),
        step_seconds=step,
        task_seconds=max(0.0, one - step),
        evaluation=evaluation,
    )
    return cost, evaluation


def _time_evaluation(
    group: TrialGroup, state: Any, base: Base, data: StreamData, scorer: Scorer
) -> Evaluation:
    refer_to_base(data.named, scorer, base.params)

    def after(task: int) -> Callable[[], Any]:
        # Named probes ask a whole model, and the base is as large as what a method makes of it.
        return lambda: measure(group, state, data, task, scorer, lambda base, _: base)

    task = len(data.tasks) - 1
    _, first = _timed(after(task))
    _, most = _timed(after(task))
    _, least = _timed(after(0))
    return Evaluation(max(0.0, first - most), (most + least) / 2)


def _timed(run: Callable[[], Made]) -> tuple[Made, float]:
    began = time.monotonic()
    return run(), time.monotonic() - began


def _no_usage(base: Base) -> dict[str, PoolUsage]:
    """A background of the right shape in which nothing was used."""
    memory = base.config.memory
    assert memory is not None  # or `check_sweep` had refused it
    none, once = jnp.zeros(memory.memory.slots, jnp.int32), jnp.ones((), jnp.int32)
    return {pool_path(pool): PoolUsage(none, none, once) for pool in memory.pools}


def _stand_in(base: Base) -> Base:
    """The base itself, or with random leaves where it has but shapes."""
    if not base.is_abstract:
        return base
    params = {}
    for number, (path, leaf) in enumerate(base.params.items()):
        if is_implicit(leaf):
            params[path] = empty_table(leaf.shape[0], leaf.shape[1], leaf.dtype)
        elif not isinstance(leaf, jax.ShapeDtypeStruct):
            params[path] = leaf
        elif jnp.issubdtype(leaf.dtype, jnp.floating):
            drawn = jax.random.normal(jax.random.key(number), leaf.shape, leaf.dtype)
            params[path] = drawn * jnp.asarray(0.02, leaf.dtype)
        else:
            params[path] = jnp.zeros(leaf.shape, leaf.dtype)
    return replace(base, params=params)
