"""What a sweep is told, checked against its base and its data before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from smf_jax import checkpoints
from smf_jax.bases.base import Base
from smf_jax.bases.retrofit_config import RetrofitConfig
from smf_jax.bases.retrofitting import check_retrofit
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.devices import check_rows, check_tables
from smf_jax.continual.grid import check_budgets
from smf_jax.continual.methods import METHODS
from smf_jax.continual.methods.method import Setup
from smf_jax.continual.stream_data import StreamData, is_measured
from smf_jax.continual.trial import Trial, by_group
from smf_jax.data.batching import require_room
from smf_jax.errors import blame_flag
from smf_jax.mesh import MEMORY
from smf_jax.progress import say
from smf_jax.sparse.rules import RULES
from smf_jax.sparse.usage import Background

_MOST_PADS = 0.4  # share of pads from which on it is told that batches can be packed


def setup_of(config: SweepConfig, trial: Trial, base: Base, stream_data: StreamData) -> Setup:
    """What the trainer of a trial, and of all others of its group, is made for."""
    own, tasks = trial.own(config.own(trial.method)), config.stream.tasks
    dealt = stream_data.dealt(trial.batch_order == "facts")
    layout = config.devices.table_layout
    return Setup(own, config.training, tasks, base, tuple(of.rows for of in dealt), layout)


def check_trials(
    config: SweepConfig, trials: Sequence[Trial], base: Base, stream_data: StreamData
) -> None:
    """Refuses trials that could not run on this base with these data.

    The base is that before a retrofit; an abstract one will do. Raises ValueError naming the flag,
    the value and what was expected.
    """
    has_text = stream_data.general is not None
    training, told = config.training, config.background
    with blame_flag("--"):
        for examples in stream_data.examples[:1]:
            counts = dict(steps_per_task=training.steps_per_task, batch_size=training.batch_size)
            require_room(examples, **counts)
        if stream_data.general is not None:
            batches, rows = told.background_batches, told.background_batch_size
            general = stream_data.general.rows
            require_room(general, background_batches=batches, background_batch_size=rows)
    padded = np.mean([np.mean(batch.valid == 0) for batch in stream_data.examples] or [0.0])
    if padded > _MOST_PADS and not training.pack:
        say(f"{padded:.0%} of the places of a batch are pads; --pack makes steps that much cheaper")
    if config.retrofit.retrofit != "none":
        base = check_retrofit(config.retrofit, base, has_text)
    elif unused := (
        config.retrofit.resolved().values().items() - RetrofitConfig().resolved().values().items()
    ):
        told = ", ".join(f"--{name}={value}" for name, value in sorted(unused))
        say(f"{told}: unused, as --retrofit=none puts no memory in")
    ranked = sorted({t.rule for t in trials if t.rule and RULES[t.rule].needs_background})
    if ranked and not has_text and not is_measured(config.background.background):
        raise ValueError(
            f"--background is empty and --base={config.base.base} brings no text of its own, but "
            f"rule {', '.join(ranked)} ranks slots against general text; give --background=FILE, "
            "or --rule=tf"
        )
    if base.config.precision is not None:
        # What others train, or merge into the base, are its matrices themselves.
        others = sorted({t.method for t in trials if METHODS[t.method].artefact != "patch"})
        if others:
            raise ValueError(
                f"--methods={','.join(others)} with a base held in {base.config.precision}, of "
                "which only a memory can be trained: choose smf, or a base in floats (without "
                "--base_precision)"
            )
    for trial in {(trial.method, trial.varied): trial for trial in trials}.values():
        METHODS[trial.method].check(setup_of(config, trial, base, stream_data), has_text)
    if base.config.memory is not None:
        check_budgets(trials, base.config.memory.memory.slots)
    check_settings_of(config, trials)
    _check_devices(config, trials, base)
    for trial, *_ in by_group(trials):
        method, setup = METHODS[trial.method], setup_of(config, trial, base, stream_data)
        with blame_flag("--"):
            method.summary(setup, method.trainer(setup, trial), trial)


def _check_devices(config: SweepConfig, trials: Sequence[Trial], base: Base) -> None:
    """Refuses trials that the mesh cannot run."""
    told, rows, probed = config.devices, config.training.batch_size, config.probes.eval_batch_size
    if told.are_several and config.run.save_every:
        raise ValueError(
            f"--save_every={config.run.save_every}: steps within a task are not saved where "
            "several processes run as one; leave it out"
        )
    check_rows(told, rows, f"--batch_size={rows}")
    check_rows(told, probed, f"--eval_batch_size={probed}")
    check_tables(told, base.config.memory)
    for trial, *_ in by_group(trials):
        own, method = trial.own(config.own(trial.method)), METHODS[trial.method]
        if told.sizes[MEMORY] > 1 and not method.may_split_tables(own):
            raise ValueError(
                f"--mesh={told.mesh}: method {trial.method} trains whole tables, which are not "
                "split then; choose other --methods, or leave memory out"
            )
        if trial.granularity == "per_micro_batch":
            parts = own.micro_batches
            check_rows(told, rows // parts, f"--batch_size={rows} in --micro_batches={parts}")


def check_settings_of(config: SweepConfig, trials: Sequence[Trial]) -> None:
    """Refuses trials whose settings exclude each other, whatever base and data are; ValueError."""
    for trial, *_ in by_group(trials):
        method = METHODS[trial.method]
        method.check_trial(trial.own(config.own(trial.method)), config.training, trial)


def measured_background(background: str, tokenizer: str) -> Background | None:
    """The statistics that ``--background`` names, ``None`` where it names text or nothing.

    Raises ValueError if the file is damaged, of another kind, or of another tokenizer.
    """
    if not is_measured(background):
        return None
    with blame_flag(f"--background={background}: "):
        found = Background.from_arrays(*checkpoints.load(background))
        found.require(found.fingerprint, tokenizer)
    return found
