"""Suite ``train``: a step of a whole model, over table slots and against other methods."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import models
from benchmarks.flags import BenchmarkConfig
from benchmarks.report import Measurement, Report, Suite
from smf_jax.models.config import MemoryPlacement

SUITE = "train"
NINE_MILLION, BUILT_IN = "9M decoder", "built-in base"
# Rows and tokens of a batch: the sweep's own for the built-in base.
BATCHES = {NINE_MILLION: (16, 64), BUILT_IN: (48, 24)}
# All methods are compared at this many table slots: full finetuning trains every row.
_COMPARED_SLOTS = {NINE_MILLION: 65_536, BUILT_IN: 16_384}


def run(flags: BenchmarkConfig, report: Report, names: Sequence[str] = models.METHODS) -> None:
    """Sparse steps over all table slots, in turns; then methods, in turns, on each model."""
    suite = Suite()
    for slots in flags.slots():
        _add(suite, flags, report, NINE_MILLION, slots, models.SMF, models.SMF)
    suite.run(report, flags.repetitions)
    for model, slots in _COMPARED_SLOTS.items():
        suite = Suite()
        for name in names:
            shown = f"{name}, beside the others" if name == models.SMF else name
            _add(suite, flags, report, model, min(slots, max(flags.slots())), name, shown)
        suite.run(report, flags.repetitions)


def _add(
    suite: Suite,
    flags: BenchmarkConfig,
    report: Report,
    model: str,
    slots: int,
    name: str,
    shown: str,
) -> None:
    if model == BUILT_IN:
        config = models.built_in_decoder(slots, flags.scale)
    else:
        # A memory in place of a feed-forward in the middle.
        placement = MemoryPlacement((4,), "pretrain", flags.block(slots).memory)
        config = models.placed("decoder-9m", placement, flags.scale)
    rows, length = (max(2, round(size * flags.scale)) for size in BATCHES[model])
    setting = {"model": model, "table_slots": slots, "tokens": rows * length}
    batches = models.random_batches(config, rows, length)
    measurement = Measurement(SUITE, shown, setting)
    models.add_model(suite, report, measurement, name, config, batches, flags.budget)
