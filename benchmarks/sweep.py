"""Suite ``sweep``: eight budgets of one static size in one group of trials, against each alone."""

from __future__ import annotations

import time
from collections.abc import Sequence

import jax
import numpy as np

from benchmarks import models
from benchmarks.flags import BenchmarkConfig
from benchmarks.harness import CompileWatch, Timing
from benchmarks.report import Measurement, Report
from benchmarks.train import BATCHES, BUILT_IN
from smf_jax.continual.trial_group import TrialGroup
from smf_jax.data.batching import Batch
from smf_jax.models.decoder import Decoder
from smf_jax.sharding import TRIAL, device_mesh
from smf_jax.sparse.selection import budget_size
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer

SUITE = "sweep"
BUDGETS = (120, 176, 232, 288, 344, 400, 456, 512)
_STEPS = 30
_SLOTS = 16_384
_PROBE_ROWS = 128


def run(
    flags: BenchmarkConfig, report: Report, budgets: Sequence[int] = BUDGETS, steps: int = _STEPS
) -> None:
    """Runs each budget by itself and in the shared group, one after the other in turns."""
    config = models.built_in_decoder(min(_SLOTS, flags.slots()[0]), flags.scale)
    slots = models.memory_of(config).memory.slots
    size = min(budget_size(max(budgets)), slots)
    params, usage = models.random_leaves(config), models.random_usage(config)
    mesh = device_mesh(TRIAL, jax.local_devices()[:1])

    def group() -> TrialGroup:
        capacity = min(slots, steps * size)
        trainer = sparse_trainer(Decoder(config), SparseConfig(size=size), capacity)
        return TrialGroup(trainer, params, usage, mesh, _PROBE_ROWS)

    rows, length = (max(2, round(side * flags.scale)) for side in BATCHES[BUILT_IN])
    made = models.random_batches(config, rows, length, steps)
    batches = Batch(*(np.stack(fields) for fields in zip(*made, strict=True)))
    shared, alone, together = group(), [], []
    for budget in budgets:
        alone.append(_watched(group(), budget, batches))
        together.append(_watched(shared, budget, batches))
    sums = [sum(seconds for seconds, _ in runs) for runs in (alone, together)]
    compiling = float(np.median([watch.seconds for _, watch in alone]))
    figures = {
        "over_alone_less_compiles": sums[1] / (sums[0] - (len(budgets) - 1) * compiling),
        "step_traces": shared.traces,
        "programs_after_first_budget": sum(watch.programs for _, watch in together[1:]),
    }
    setting = {"model": BUILT_IN, "table_slots": slots, "budgets": len(budgets)}
    names = ("each budget alone", "all budgets in one group")
    for name, runs, total in zip(names, (alone, together), sums, strict=True):
        more = {"programs": sum(watch.programs for _, watch in runs), "steps": steps}
        seconds = sum(watch.seconds for _, watch in runs)
        if runs is together:
            more |= figures
        timing = Timing((total,))
        report.add(Measurement(SUITE, name, setting, None, timing, seconds, more=more))


def _watched(group: TrialGroup, budget: int, batches: Batch) -> tuple[float, CompileWatch]:
    """Runs one trial through one task of these batches."""
    # The examples of a task, of which only rules that probe a task make use.
    examples = Batch(*(field[:1] for field in batches))
    begun = time.perf_counter()
    with CompileWatch() as watch:
        state, settings = group.begin([models.settings_for(budget)])
        state, _ = group.train(state, [batches], examples, settings)
        jax.block_until_ready(state)
    return time.perf_counter() - begun, watch
