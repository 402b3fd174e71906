"""Suite ``train``: a step of a whole model, over table slots and against other methods."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from benchmarks import methods, models
from benchmarks.costs import Cost
from benchmarks.flags import BenchmarkFlags
from benchmarks.harness import compile_for
from benchmarks.methods import LORA, MASKED, METHODS, SMF
from benchmarks.results import Measurement, Report
from benchmarks.suite import Field, check_ratio, fits, ratio
from smf_jax.data.batching import Batch
from smf_jax.models.config import ModelConfig

SUITE = "train"
NINE_MILLION, BUILT_IN = "9M decoder", "built-in base"
# Rows and tokens of a batch: the sweep's own for the built-in base.
_BATCHES = {NINE_MILLION: (16, 64), BUILT_IN: (48, 24)}
_BATCH_SETS = 4
# All methods are compared at this many table slots: full finetuning trains every row.
_COMPARED_SLOTS = {NINE_MILLION: 65_536, BUILT_IN: 16_384}
SMALLEST, LARGEST = 16_384, 4_194_304


def run(flags: BenchmarkFlags, report: Report, names: Sequence[str] = METHODS) -> None:
    """Sparse steps over all table slots, in turns; then methods, in turns, on each model.

    Args:
      flags: of the command.
      report: told what is found.
      names: of the methods.
    """
    field = Field()
    for slots in flags.slots():
        _enter(field, flags, report, NINE_MILLION, slots, SMF)
    field.run(report, flags.repetitions)
    for model, slots in _COMPARED_SLOTS.items():
        slots = min(slots, max(flags.slots()))
        field = Field()
        for name in names:
            _enter(field, flags, report, model, slots, name, beside=True)
        field.run(report, flags.repetitions)
    check_train(report)


def decoder(model: str, flags: BenchmarkFlags, slots: int) -> ModelConfig:
    """One of the models that are timed; the larger one has the memory that the flags describe."""
    if model == BUILT_IN:
        return models.built_in_decoder(slots, flags.scale)
    return models.nine_million_decoder(flags.block(slots).memory, flags.scale)


def batch_of(model: str, config: ModelConfig, scale: float, seed: int) -> Batch:
    """A batch as large as the model's usual ones."""
    rows, length = _BATCHES[model]
    return models.random_batch(
        config, max(2, round(rows * scale)), max(8, round(length * scale)), seed
    )


def _enter(
    field: Field,
    flags: BenchmarkFlags,
    report: Report,
    model: str,
    slots: int,
    name: str,
    beside: bool = False,
) -> None:
    """Enters a method on a model, where there is memory for it."""
    config = decoder(model, flags, slots)
    method = methods.make_method(name, config, flags.budget)
    params = models.abstract_leaves(config)
    frozen, state = methods.shapes_of(method, params)
    usage = models.random_usage(config) if name in (SMF, MASKED) else None
    batches = [batch_of(model, config, flags.scale, seed) for seed in range(_BATCH_SETS)]
    program = compile_for(method.step, state, frozen, usage, batches[0], donate=(0,))
    if not fits(report, field, f"{SUITE}, {name}, {model} at {slots:,} table slots", program):
        return
    # The state shares buffers with the leaves, which nobody else holds.
    frozen, state = jax.block_until_ready(method.begin(models.random_leaves(config)))
    call = methods.stepping(program.run, state, frozen, usage, batches)
    del state
    setting = {"model": model, "table_slots": slots, "tokens": batches[0].tokens.size}
    shown = f"{name}, beside the others" if beside and name == SMF else name
    cost = cost_of(config, name, batches[0].tokens.size, flags.budget)
    field.enter(Measurement(SUITE, shown, setting, cost=cost), call, program)


def cost_of(config: ModelConfig, name: str, tokens: int, budget: int) -> Cost:
    """What a step of a method needs at least."""
    if name in (SMF, MASKED, methods.DENSE_ADAM):
        # What the table's whole gradient costs beyond that is the method's own doing.
        return models.model_cost(config, "smf", tokens, budget)
    return models.model_cost(config, "lora" if name == LORA else "full", tokens, budget)


def check_train(report: Report, smallest: int = SMALLEST, largest: int = LARGEST) -> None:
    """Checks what must hold of whole steps."""
    ends = [
        report.median(SUITE, SMF, model=NINE_MILLION, table_slots=slots)
        for slots in (largest, smallest)
    ]
    check_ratio(report, f"train_growth_{smallest}_to_{largest}", ratio(*ends), "at most", 1.3)
    beside = report.median(SUITE, f"{SMF}, beside the others", model=BUILT_IN)
    lora = report.median(SUITE, LORA, model=BUILT_IN)
    check_ratio(report, "train_smf_over_lora_built_in", ratio(beside, lora), "at most", 1.0)
