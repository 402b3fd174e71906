"""Suite ``sweep``: eight budgets of one static size in one group of trials, against each alone."""

from collections.abc import Sequence

import jax
import numpy as np

from benchmarks import models
from benchmarks.flags import BenchmarkConfig
from benchmarks.harness import CompileWatch
from benchmarks.models import STEPS
from benchmarks.report import Entry, Report
from benchmarks.train import BUILT_IN, batches_for
from smf_jax.continual.trial_group import TrialGroup
from smf_jax.data.batching import Batch
from smf_jax.mesh import TRIAL, device_mesh

SUITE = "sweep"
BUDGETS = (120, 176, 232, 288, 344, 400, 456, 512)
_SLOTS, _PROBE_ROWS = 16_384, 128


def run(
    flags: BenchmarkConfig, report: Report, budgets: Sequence[int] = BUDGETS, steps: int = STEPS
) -> None:
    """Runs each budget by itself and in the shared group, one after the other in turns."""
    config = models.built_in_decoder(min(_SLOTS, flags.slots()[0]), flags.scale)
    params, usage = models.random_leaves(config), models.random_usage(config)
    mesh = device_mesh(TRIAL, jax.local_devices()[:1])

    def group() -> TrialGroup:
        trainer = models.make_trainer(models.SMF, config, max(budgets))
        return TrialGroup(trainer, params, usage, mesh, _PROBE_ROWS)

    made = batches_for(BUILT_IN, config, flags.scale, steps)
    batches = Batch(*(np.stack(fields) for fields in zip(*made, strict=True)))
    shared, alone, together = group(), [], []
    for budget in budgets:
        alone.append(_watched(group(), budget, batches))
        together.append(_watched(shared, budget, batches))
    slots = models.memory_of(config).memory.slots
    setting = {"model": BUILT_IN, "table_slots": slots, "budgets": len(budgets)}

    def add(name: str, runs: Sequence[CompileWatch], **figures: float) -> None:
        seconds, compiling = sum(run.elapsed for run in runs), sum(run.seconds for run in runs)
        told = {"programs": sum(run.programs for run in runs), "steps": steps, **figures}
        report.add(Entry(SUITE, name, setting), [seconds], compile_seconds=compiling, **told)

    compiling = float(np.median([run.seconds for run in alone]))
    least = sum(run.elapsed for run in alone) - (len(budgets) - 1) * compiling
    figures = {"over_alone_less_compiles": sum(run.elapsed for run in together) / least}
    later = sum(run.programs for run in together[1:])
    figures |= {"step_traces": shared.traces, "programs_after_first_budget": later}
    add("each budget alone", alone)
    add("all budgets in one group", together, **figures)


def _watched(group: TrialGroup, budget: int, batches: Batch) -> CompileWatch:
    """Runs one trial through one task of these batches."""
    # The examples of a task, of which only rules that probe a task make use.
    examples = Batch(*(field[:1] for field in batches))
    with CompileWatch() as watch:
        state, settings = group.begin([models.settings_for(budget)])
        state, _ = group.train(state, [batches], examples, settings)
        jax.block_until_ready(state)
    return watch
