"""Suite ``sweep``: eight budgets of one static size in one group of trials, against each alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import models
from benchmarks.flags import BenchmarkFlags
from benchmarks.harness import Clock, CompileWatch, Timing
from benchmarks.results import Measurement, Report
from benchmarks.train import BUILT_IN, batch_of
from smf_jax.continual.trial_group import TrialGroup
from smf_jax.data.batching import Batch
from smf_jax.models.config import ModelConfig
from smf_jax.models.decoder import Decoder
from smf_jax.params import Params
from smf_jax.sharding import TRIAL, device_mesh
from smf_jax.sparse.selection import budget_size
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer

SUITE = "sweep"
BUDGETS = (120, 176, 232, 288, 344, 400, 456, 512)
_STEPS = 30
_SLOTS = 16_384
_PROBE_ROWS = 128


class Group:
    """A group of trials of one static shape on the built-in base's shape, one device wide."""

    def __init__(self, config: ModelConfig, params: Params, usage: Any, size: int) -> None:
        placement = models.memory_of(config)
        capacity = min(placement.memory.slots, _STEPS * size)
        trainer = sparse_trainer(Decoder(config), SparseConfig(size=size), capacity)
        mesh = device_mesh(TRIAL, jax.local_devices()[:1])
        self.trials = TrialGroup(trainer, params, usage, mesh, _PROBE_ROWS)

    def run(self, budget: int, batches: Batch) -> None:
        """Runs one trial through one task of these batches."""
        state, settings = self.trials.begin([models.settings_for(budget)])
        state, _ = self.trials.train(state, [batches], _first(batches), settings)
        jax.block_until_ready(state)


def _first(batches: Batch) -> Batch:
    """The examples of a task, of which only rules that probe a task make use."""
    return Batch(*(field[:1] for field in batches))


def run(
    flags: BenchmarkFlags,
    report: Report,
    budgets: Sequence[int] = BUDGETS,
    steps: int = _STEPS,
    clock: Clock = time.perf_counter,
) -> None:
    """Runs each budget by itself and in the shared group, one after the other in turns.

    Args:
      flags: of the command.
      report: told what is found.
      budgets: of one static size.
      steps: of a task.
      clock: seconds.
    """
    config = models.built_in_decoder(min(_SLOTS, flags.slots()[0]), flags.scale)
    params, usage = models.random_leaves(config), models.random_usage(config)
    made = [batch_of(BUILT_IN, config, flags.scale, seed) for seed in range(steps)]
    batches = Batch(*(np.stack(fields) for fields in zip(*made, strict=True)))
    size = min(budget_size(max(budgets)), config_slots(config))
    shared = Group(config, params, usage, size)
    alone, together = [], []
    for budget in budgets:
        alone.append(_watched(Group(config, params, usage, size), budget, batches, clock))
        together.append(_watched(shared, budget, batches, clock))
    setting = {"model": BUILT_IN, "table_slots": config_slots(config), "budgets": len(budgets)}
    for name, runs in (("each budget alone", alone), ("all budgets in one group", together)):
        report.add(
            Measurement(
                SUITE,
                name,
                setting,
                Timing((sum(seconds for seconds, _ in runs),)),
                compile_seconds=sum(watch.seconds for _, watch in runs),
                more={"programs": sum(watch.programs for _, watch in runs), "steps": steps},
            )
        )
    bound = sum(seconds for seconds, _ in alone)
    bound -= (len(budgets) - 1) * float(np.median([watch.seconds for _, watch in alone]))
    total = sum(seconds for seconds, _ in together)
    report.check("sweep_over_alone_less_compiles", total / bound, "at most", 1.05)
    report.check("sweep_step_traces", shared.trials.traces, "at most", 1)
    again = sum(watch.programs for _, watch in together[1:])
    report.check("sweep_programs_after_first_budget", again, "at most", 0)


def config_slots(config: ModelConfig) -> int:
    """Table slots of a model's memories."""
    return models.memory_of(config).memory.slots


def _watched(group: Group, budget: int, batches: Batch, clock: Clock) -> tuple[float, CompileWatch]:
    begun = clock()
    with CompileWatch() as watch:
        group.run(budget, batches)
    return clock() - begun, watch
