"""The main job: sweeps budgets, rates and methods over a stream of facts, and reports.

``python -m experiments.sweep --slots=64,512 --out=runs/world`` builds (or reuses) the base, teaches
the stream task by task with every method, measures after each task what was learned and what was
forgotten, and ends in ``runs/world/report.md`` with its pictures.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from typing import Any

import flax
import jax
import optax

import smf_jax
from experiments.cli import run
from experiments.configs.presets import base_recipe
from experiments.report.write import write_report
from smf_jax import checkpoints
from smf_jax.continual.base import LEAVES, Base, cached_path, load_base, save_base
from smf_jax.continual.config import SweepFlags
from smf_jax.continual.engine import Sweep, run_group
from smf_jax.continual.grid import Trial, shard
from smf_jax.continual.plan import by_group, check_trials, measured_background, plan
from smf_jax.continual.pretraining import abstract_base, pretrain
from smf_jax.continual.retrofitting import retrofit_base
from smf_jax.continual.run_directory import BACKGROUND, BASE, RunDirectory
from smf_jax.continual.slot_health import measure_slot_health
from smf_jax.continual.stream_data import StreamData, load_stream_data
from smf_jax.errors import blame_flag, require_writable
from smf_jax.params import count_parameters
from smf_jax.progress import progress_bar, say
from smf_jax.sparse.selection import RULES_WITH_BACKGROUND
from smf_jax.sparse.usage import Background
from smf_jax.training.background import measure_background, routing_fingerprint


def find_base(flags: SweepFlags) -> Base:
    """The base that the flags name; an outline of it if it is built in and not cached."""
    if flags.base != "world":
        return load_base(flags.base, "base", flags.dtype)
    recipe = base_recipe(flags)
    path = cached_path(recipe, flags.base_cache)
    if path.is_dir():
        return load_base(str(path), "base_cache")
    require_writable(flags.base_cache, "base_cache")
    return abstract_base(recipe)


def make_base(flags: SweepFlags, base: Base, stream_data: StreamData) -> Base:
    """The base as the trials start from it: pretrained and retrofitted where that is to be done."""
    recipe = base.pretrain_flags()
    if base.is_abstract and recipe is not None:
        path = cached_path(recipe, flags.base_cache)
        save_base(path, pretrain(recipe))
        base = load_base(str(path), "base_cache")
    if flags.retrofit != "none":
        windows = None if stream_data.general is None else stream_data.general.rows
        base = retrofit_base(flags, base, windows)
    return base


def kept_background(
    flags: SweepFlags, base: Base, run_directory: RunDirectory
) -> Background | None:
    """The statistics of the run that is resumed, ``None`` if it has none of this very base."""
    path = run_directory.path / BASE / BACKGROUND
    if not flags.resume or not checkpoints.is_complete(path):
        return None
    kept = Background.from_arrays(*checkpoints.load(path))
    return kept if kept.fingerprint == routing_fingerprint(base.config, base.params) else None


def get_background(
    flags: SweepFlags, base: Base, stream_data: StreamData, measured: Background | None
) -> Background:
    """Background statistics: those measured before, if they are this base's, or new ones."""
    tokenizer = base.tokenizer_fingerprint()
    if measured is not None:
        with blame_flag(f"--background={flags.background}: "):
            measured.require(routing_fingerprint(base.config, base.params), tokenizer)
        return measured
    batches = stream_data.background_batches(flags.background_batches, flags.background_batch_size)
    corpus = "" if stream_data.general is None else stream_data.general.corpus
    with progress_bar(flags.background_batches, "background", "batch") as progress:
        return measure_background(
            base.model,
            base.params,
            batches,
            corpus=corpus,
            tokenizer=tokenizer,
            progress=progress,
        )


def main(flags: SweepFlags) -> int:
    """Runs the sweep; returns 1 if a trial failed."""
    trials = shard(plan(flags), flags.shard)
    run_directory = RunDirectory(flags.out, flags.shard)
    run_directory.check(_configuration(flags), flags.resume, flags.overwrite)
    base = find_base(flags)
    say(f"base: {base.origin}, {count_parameters(base.params):,} parameters")
    stream_data = load_stream_data(flags, base)
    check_trials(flags, trials, base, stream_data)
    measured = measured_background(flags, base.tokenizer_fingerprint())
    # All that can be told without computing has been told; --out is still as it was.
    base = make_base(flags, base, stream_data)
    background = None
    if any(trial.rule in RULES_WITH_BACKGROUND for trial in trials):
        background = kept_background(flags, base, run_directory)
        background = background or get_background(flags, base, stream_data, measured)
    run_directory.open(_configuration(flags), flags.resume, flags.overwrite)
    base_fingerprint = _save_start(run_directory, base, background)
    sweep = Sweep(
        flags=flags,
        base=base,
        base_fingerprint=base_fingerprint,
        stream_data=stream_data,
        usage=None if background is None else background.pools,
        run=run_directory,
        devices=jax.local_devices(),
    )
    say(
        f"{len(trials)} trials, {len(stream_data.tasks)} tasks of {flags.facts_per_task} facts, on "
        f"{len(sweep.devices)} {sweep.devices[0].device_kind}"
    )
    _run_all(sweep, trials)
    measure_slot_health(
        flags, base, base_fingerprint, stream_data, background, run_directory, trials
    )
    table = write_report(run_directory.path)
    say(f"\n{table}\n\n{run_directory.path / 'report.md'}")
    for line in sweep.failed:
        say(f"failed: {line}")
    return 1 if sweep.failed else 0


def _run_all(sweep: Sweep, trials: Sequence[Trial]) -> None:
    """Runs all trials, group by group, under one progress bar."""
    with progress_bar(len(trials) * len(sweep.stream_data.tasks), "sweep", "task") as progress:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress(done)

        for group in by_group(trials):
            run_group(sweep, group, advance)


def _configuration(flags: SweepFlags) -> dict[str, Any]:
    """What a run was told, and the versions that ran it."""
    versions = {"smf_jax": smf_jax.__version__, "jax": jax.__version__}
    versions |= {"flax": flax.__version__, "optax": optax.__version__}
    return {**dataclasses.asdict(flags), "versions": versions, "python": platform.python_version()}


def _save_start(run_directory: RunDirectory, base: Base, background: Background | None) -> str:
    """Saves the base and its background once; a resume checks that they are the same."""
    path = run_directory.path / BASE
    base_fingerprint = base.fingerprint()
    if not path.exists():
        save_base(path, base)
    if checkpoints.read_manifest(path / LEAVES).fingerprint != base_fingerprint:
        raise ValueError(
            f"--resume of {run_directory.path}: {path} is not the base that these flags give now; "
            "what --base names has changed, or another machine made or healed it; give another "
            "--out"
        )
    if background is not None and not (path / BACKGROUND).exists():
        arrays, metadata = background.to_arrays()
        checkpoints.save(path / BACKGROUND, arrays, metadata)
    return base_fingerprint


if __name__ == "__main__":
    run(
        main,
        SweepFlags,
        "experiments.sweep",
        "sweep slot budgets, rates and methods over a stream of facts",
        "python -m experiments.sweep --slots=64,512 --lr=smf:30,60/full:3e-5,1e-4 --out=runs/world",
    )
