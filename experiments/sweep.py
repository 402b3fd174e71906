"""The main job: sweeps budgets, rates and methods over a stream of facts, and reports.

``python -m experiments.sweep --slots=64,512 --out=runs/world`` builds (or reuses) the base, teaches
the stream task by task with every method, measures after each task what was learned and what was
forgotten, and ends in ``runs/world/report.md`` with its pictures.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import flax
import jax
import numpy as np
import optax

import smf_jax
from experiments.bases import Base, cached_base, load_base, save_base
from experiments.command import run
from experiments.config import PretrainFlags, SweepFlags
from experiments.grid import (
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
    shard,
)
from experiments.materials import Materials, gather, is_measured
from experiments.pretrain import pretrain
from experiments.progress import progress_bar, say
from experiments.report import write_report
from experiments.retrofit import retrofit_base
from experiments.runs import BASE, RunDirectory
from experiments.trials import Sweep, run_group
from smf_jax import checkpoints
from smf_jax.sparse.selection import GRANULARITIES, RULES, RULES_WITH_BACKGROUND
from smf_jax.sparse.usage import Background
from smf_jax.training.background import base_fingerprint, measure_background
from smf_jax.training.state import count_parameters


def plan(flags: SweepFlags) -> tuple[Trial, ...]:
    """The whole grid that the flags ask for.

    Raises:
      ValueError: naming the flag, the value and what was expected.
    """
    methods = parse_list(flags.methods, "methods", one_of(METHODS))
    for name in ("steps_per_task", "batch_size", "facts_per_task", "probe_limit", "probe_rows"):
        if getattr(flags, name) < 1:
            raise ValueError(f"--{name}={getattr(flags, name)}: expected at least 1")
    if not 0 < flags.replay_share < 1:
        raise ValueError(f"--replay_share={flags.replay_share}: expected a share between 0 and 1")
    for name, choices in (
        ("keep_checkpoints", ("all", "last")),
        ("schedule", ("constant", "cosine")),
    ):
        if getattr(flags, name) not in choices:
            raise ValueError(
                f"--{name}={getattr(flags, name)} is unknown; choose from {', '.join(choices)}"
            )
    if flags.retrofit not in ("none", "add", "replace"):
        raise ValueError(f"--retrofit={flags.retrofit} is unknown; choose from none, add, replace")
    return build_grid(
        methods,
        parse_list(flags.seeds, "seeds", seed),
        slots=parse_scoped(flags.slots, "slots", methods, budget),
        rules=parse_scoped(flags.rule, "rule", methods, one_of(RULES)),
        granularities=parse_scoped(
            flags.granularity, "granularity", methods, one_of(GRANULARITIES)
        ),
        optimizers=parse_scoped(flags.optimizer, "optimizer", methods, one_of(OPTIMIZERS)),
        learning_rates=parse_scoped(flags.lr, "lr", methods, rate),
    )


def get_base(flags: SweepFlags) -> Base:
    """The base that the flags name, made first if it is built in and not cached."""
    if flags.base != "world":
        return load_base(flags.base, "base", flags.dtype)
    recipe = PretrainFlags(world_seed=flags.base_seed, seed=flags.base_seed)
    base, was_cached = cached_base(recipe, flags.base_cache, pretrain)
    say(f"base: {'cached' if was_cached else 'made'}, {count_parameters(base.leaves):,} parameters")
    return base


def get_background(flags: SweepFlags, base: Base, materials: Materials) -> Background:
    """Background statistics: those measured before, if they are this base's, or new ones."""
    mark = base_fingerprint(base.config, base.leaves)
    if is_measured(flags.background):
        background = Background.from_arrays(*checkpoints.load(flags.background))
        background.require(mark, base.tokenizer_fingerprint())
        return background
    if materials.general is None:
        raise ValueError(
            f"--background is empty and --base={flags.base} brings no text of its own, but the "
            f"rules {', '.join(RULES_WITH_BACKGROUND)} rank slots against general text; give "
            "--background=FILE, or --rule=tf"
        )
    batches = materials.background_batches(flags.background_batches, flags.background_batch_size)
    with progress_bar(flags.background_batches, "background", "batch") as progress:
        return measure_background(
            base.model,
            base.leaves,
            batches,
            corpus=materials.general.corpus,
            tokenizer=base.tokenizer_fingerprint(),
            progress=progress,
        )


def changed_slots(run: RunDirectory, trials: Sequence[Trial]) -> dict[str, list[np.ndarray]]:
    """Slots that each task of each trial changed; pools lie one after another in the numbering."""
    found: dict[str, list[np.ndarray]] = {}
    for trial in trials:
        if trial.method != "smf":
            continue
        patches = run.load_patches(trial, run.completed(trial)[0])
        paths = sorted({path for patch in patches for path in patch.pools})
        found[trial.id] = [
            np.concatenate(
                [
                    patch.pools[path].slots + place * patch.pools[path].table_slots
                    for place, path in enumerate(paths)
                    if path in patch.pools
                ]
                or [np.zeros(0, np.int32)]
            )
            for patch in patches
        ]
    return found


def main(flags: SweepFlags) -> int:
    """Runs the sweep; returns 1 if a trial failed."""
    grid = plan(flags)
    trials = shard(grid, flags.shard)
    run_directory = RunDirectory(flags.out, flags.shard)
    run_directory.check(flags.resume, flags.overwrite)
    base = get_base(flags)
    materials = gather(flags, base)
    if flags.retrofit != "none":
        windows = None if materials.general is None else materials.general.rows
        base = retrofit_base(flags, base, windows)
    if base.config.memory is not None:
        check_budgets(trials, base.config.memory.memory.slots)
    elif any(trial.method == "smf" for trial in trials):
        raise ValueError(
            f"--base={flags.base} has no memory, which method smf trains; give --retrofit=add or "
            "--retrofit=replace, or other --methods"
        )
    background = None
    if any(trial.rule in RULES_WITH_BACKGROUND for trial in trials):
        background = get_background(flags, base, materials)
    run_directory.open(_configuration(flags), flags.resume, flags.overwrite)
    mark = _save_start(run_directory, base, background)
    sweep = Sweep(
        flags=flags,
        base=base,
        mark=mark,
        materials=materials,
        usage=None if background is None else background.pools,
        run=run_directory,
        devices=jax.local_devices(),
    )
    say(
        f"{len(trials)} trials, {len(materials.tasks)} tasks of {flags.facts_per_task} facts, on "
        f"{len(sweep.devices)} {sweep.devices[0].device_kind}"
    )
    with progress_bar(len(trials) * len(materials.tasks), "sweep", "task") as progress:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress(done)

        for _, group in groupby(sorted(trials, key=_group_key), key=_group_key):
            run_group(sweep, list(group), advance)
    table = write_report(
        run_directory.path, run_directory.rows(), changed_slots(run_directory, grid)
    )
    say(f"\n{table}\n\n{run_directory.path / 'report.md'}")
    for line in sweep.failed:
        say(f"failed: {line}")
    return 1 if sweep.failed else 0


def _group_key(trial: Trial) -> str:
    return repr(trial.group)


def _configuration(flags: SweepFlags) -> dict[str, Any]:
    """What a run was told, and the versions that ran it."""
    versions = {"smf_jax": smf_jax.__version__, "jax": jax.__version__}
    versions |= {"flax": flax.__version__, "optax": optax.__version__}
    return {**dataclasses.asdict(flags), "versions": versions, "python": platform.python_version()}


def _save_start(run_directory: RunDirectory, base: Base, background: Background | None) -> str:
    """Saves the base and its background once; a resume checks that they are the same."""
    path = run_directory.path / BASE
    mark = base.fingerprint()
    if not path.exists():
        save_base(path, base)
    elif checkpoints.read_manifest(path / "leaves").fingerprint != mark:
        raise ValueError(
            f"--resume of {run_directory.path}: its base is another than the one that --base="
            f"{run_directory.path / BASE} would have to be; it was retrofitted or made otherwise"
        )
    if background is not None and not (path / "background").exists():
        arrays, metadata = background.to_arrays()
        checkpoints.save(path / "background", arrays, metadata)
    return mark


if __name__ == "__main__":
    run(
        main,
        SweepFlags,
        "experiments.sweep",
        "sweep slot budgets, rates and methods over a stream of facts",
        "python -m experiments.sweep --slots=64,512 --lr=smf:10,30/full:3e-5,1e-4 --out=runs/world",
    )
