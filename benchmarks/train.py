"""Suite ``train``: a step of a whole model, over table slots and against other methods."""

from benchmarks import models
from benchmarks.flags import BenchmarkConfig
from benchmarks.report import Entry, Report, Suite
from smf_jax.data.batching import Batch
from smf_jax.models.config import MemoryPlacement, ModelConfig

SUITE = "train"
NINE_MILLION, BUILT_IN = "9M decoder", "built-in base"
SMOLLM = "135M decoder of 30 layers"
# Rows and tokens of a batch: the sweep's own for the built-in base.
BATCHES = {NINE_MILLION: (16, 64), BUILT_IN: (48, 24), SMOLLM: (32, 40)}
# Methods are compared at this many table slots: full finetuning trains every row.
_COMPARED_SLOTS = {NINE_MILLION: 65_536, BUILT_IN: 16_384, SMOLLM: 16_384}


def run(flags: BenchmarkConfig, report: Report) -> None:
    """Sparse steps over all table slots, in turns; then methods, in turns, on each model."""
    groups = [[(NINE_MILLION, slots, models.SMF, models.SMF) for slots in flags.slots()]]
    shown = {models.SMF: f"{models.SMF}, beside the others"}
    for model, slots in _COMPARED_SLOTS.items():
        most = min(slots, max(flags.slots()))
        methods = models.ALL_METHODS if model == SMOLLM else models.METHODS
        groups.append([(model, most, name, shown.get(name, name)) for name in methods])
    for group in groups:
        suite = Suite()
        for model, slots, method, name in group:
            if model == BUILT_IN:
                config = models.built_in_decoder(slots, flags.scale)
            elif model == SMOLLM:
                config = models.smollm(slots, flags.scale)
            else:
                # A memory in place of a feed-forward in the middle.
                placement = MemoryPlacement((4,), "pretrain", flags.block(slots).memory)
                config = models.placed("decoder-9m", placement, flags.scale)
            batches = batches_for(model, config, flags.scale)
            tokens = batches[0].tokens.size
            entry = Entry(SUITE, name, {"model": model, "table_slots": slots, "tokens": tokens})
            models.add_model(suite, report, entry, method, config, batches, flags.budget)
        few = min(3, flags.repetitions)  # steps of seconds
        suite.run(report, few if group[0][0] == SMOLLM else flags.repetitions)


def batches_for(model: str, config: ModelConfig, scale: float, count: int = 4) -> list[Batch]:
    """Random batches of a model's usual size."""
    rows, length = (max(2, round(size * scale)) for size in BATCHES[model])
    return models.random_batches(config, rows, length, count)
