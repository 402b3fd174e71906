"""What a sweep is told, checked before anything is computed or written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from smf_jax import checkpoints
from smf_jax.continual.base import Base
from smf_jax.continual.config import SweepFlags
from smf_jax.continual.grid import (
    BATCH_ORDERS,
    METHODS,
    OPTIMIZERS,
    Trial,
    budget,
    build_grid,
    check_budgets,
    one_of,
    parse_list,
    parse_scoped,
    rate,
    seed,
)
from smf_jax.continual.methods import count_trainable, make_trainer
from smf_jax.continual.retrofitting import check_retrofit
from smf_jax.continual.stream_data import StreamData, is_measured
from smf_jax.errors import blame_flag, require_least
from smf_jax.sparse.rules import RULES
from smf_jax.sparse.selection import GRANULARITIES
from smf_jax.sparse.usage import Background

_CHOICES: Mapping[str, Sequence[str]] = {
    "keep_checkpoints": ("all", "last"),
    "schedule": ("constant", "cosine"),
    "retrofit": ("none", "add", "replace"),
}
_AT_LEAST_ONE = (
    "tasks",
    "facts_per_task",
    "steps_per_task",
    "batch_size",
    "background_batches",
    "background_batch_size",
    "probe_limit",
    "eval_batch_size",
    "probe_answer_tokens",
    "lora_rank",
)
_AT_LEAST_ZERO = (
    "warmup_steps",
    "weight_decay",
    "clip",
    "store_rows",
    "prompt_loss_weight",
    "value_width",
    "base_seed",
    "probe_shots",
    "ppl_window",
    "ppl_stride",
    "recount_batches",
)


def plan(flags: SweepFlags) -> tuple[Trial, ...]:
    """The whole grid that the flags ask for.

    Raises:
      ValueError: naming the flag, the value and what was expected.
    """
    methods = parse_list(flags.methods, "methods", one_of(METHODS))
    require_least(flags, 1, *_AT_LEAST_ONE)
    require_least(flags, 0, *_AT_LEAST_ZERO)
    if not 0 < flags.replay_share < 1:
        raise ValueError(f"--replay_share={flags.replay_share}: expected a share between 0 and 1")
    for name, choices in _CHOICES.items():
        if getattr(flags, name) not in choices:
            raise ValueError(
                f"--{name}={getattr(flags, name)} is unknown; choose from {', '.join(choices)}"
            )
    if flags.schedule == "cosine" and flags.warmup_steps >= flags.steps_per_task:
        raise ValueError(
            f"--warmup_steps={flags.warmup_steps} leaves no step of --schedule=cosine over "
            f"--steps_per_task={flags.steps_per_task}; lower it"
        )
    return build_grid(
        methods,
        parse_list(flags.seeds, "seeds", seed),
        slots=parse_scoped(flags.slots, "slots", methods, budget),
        rules=parse_scoped(flags.rule, "rule", methods, one_of(tuple(RULES))),
        granularities=parse_scoped(
            flags.granularity, "granularity", methods, one_of(GRANULARITIES)
        ),
        optimizers=parse_scoped(flags.optimizer, "optimizer", methods, one_of(tuple(OPTIMIZERS))),
        learning_rates=parse_scoped(flags.lr, "lr", methods, rate),
        batch_orders=parse_scoped(flags.batch_order, "batch_order", methods, one_of(BATCH_ORDERS)),
    )


def check_trials(
    flags: SweepFlags, trials: Sequence[Trial], base: Base, stream_data: StreamData
) -> None:
    """Refuses trials that could not run on this base with these materials.

    Args:
      flags: of the sweep.
      trials: to run.
      base: before a retrofit; an outline will do.
      stream_data: what the sweep reads.

    Raises:
      ValueError: naming the flag, the value and what was expected.
    """
    has_text = stream_data.general is not None
    if flags.batch_size < 2 and any(trial.method == "replay" for trial in trials):
        raise ValueError("--batch_size=1 leaves replay no room for base data; give at least 2")
    if flags.retrofit != "none":
        base = check_retrofit(flags, base, has_text)
    ranked = sorted({t.rule for t in trials if t.rule and RULES[t.rule].needs_background})
    if ranked and not has_text and not is_measured(flags.background):
        raise ValueError(
            f"--background is empty and --base={flags.base} brings no text of its own, but rule "
            f"{', '.join(ranked)} ranks slots against general text; give --background=FILE, or "
            "--rule=tf"
        )
    if any(trial.method == "replay" for trial in trials) and not has_text:
        raise ValueError(
            f"--methods={flags.methods}: replay mixes base data in, and --base={flags.base} brings "
            "none; give --background=FILE, or leave replay out"
        )
    if base.config.memory is not None:
        check_budgets(trials, base.config.memory.memory.slots)
    for group in by_group(trials):
        count_trainable(flags, make_trainer(flags, base, group[0], stream_data), base, group[0])


def by_group(trials: Sequence[Trial]) -> list[list[Trial]]:
    """The trials of each static shape, which share one compiled program."""
    groups: dict[object, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.group, []).append(trial)
    return [groups[key] for key in sorted(groups, key=repr)]


def measured_background(flags: SweepFlags, tokenizer: str) -> Background | None:
    """The statistics that ``--background`` names, ``None`` where it names text or nothing.

    Args:
      flags: of the sweep.
      tokenizer: fingerprint of the base's tokenizer.

    Raises:
      ValueError: if the file is damaged, of another kind, or of another tokenizer.
    """
    if not is_measured(flags.background):
        return None
    with blame_flag(f"--background={flags.background}: "):
        found = Background.from_arrays(*checkpoints.load(flags.background))
        found.require(found.fingerprint, tokenizer)
    return found
