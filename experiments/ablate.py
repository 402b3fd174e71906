"""Ablations: sweeps that differ in any settings, from a file, with one report over all of them.

A file says what is crossed, zipped or changed one at a time (docs/ablations.md). Each sweep lies in
a directory of its own in ``--out`` and goes on where it stopped with ``--resume``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from experiments.cli import run
from experiments.configs import base_recipe, preset_of
from experiments.report.ablation import write_ablation
from smf_jax.configuration import Configuration, PathText, setting
from smf_jax.continual.ablation import Cell, read_ablation
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.grid import grid
from smf_jax.continual.sweep import Tools, run_sweep
from smf_jax.continual.trial import by_group
from smf_jax.errors import blame_flag
from smf_jax.paths import as_path
from smf_jax.progress import say


@dataclass(frozen=True)
class AblateConfig(Configuration):
    """Which grid, and where it goes."""

    files: tuple[str, ...] = ()  # the grid file
    out: PathText = setting("runs/ablation", "directory of the sweeps and of their report")
    resume: bool = setting(False, "go on with the sweeps at --out where they stopped")
    dry_run: bool = setting(False, "list sweeps, trials and compilations, and run nothing")
    json: bool = setting(False, "the list as JSON")


def lay_out(config: AblateConfig) -> tuple[Cell, ...]:
    """The sweeps of the file, each checked as far as its settings tell; ValueError if one fails."""
    if len(config.files) != 1:
        raise ValueError(f"{len(config.files)} files given, expected one grid file")
    (file,) = config.files
    told = read_ablation(file)
    with blame_flag(f"{file}: "):
        start = preset_of(SweepConfig, told.preset, told.scale)
        cells = told.cells(start)
        for cell in cells:
            grid(cell.config.grid, cell.config.own)
    return cells


def listed(cells: tuple[Cell, ...]) -> list[dict]:
    """What would run: by sweep its changes, its trials, and how many programs they need."""
    found = []
    for cell in cells:
        trials = grid(cell.config.grid, cell.config.own)
        found.append(
            {
                "sweep": cell.name,
                "changes": dict(cell.changes),
                "trials": [trial.id for trial in trials],
                "groups": len(by_group(trials)),
            }
        )
    return found


def main(
    config: AblateConfig, tools: Callable[[SweepConfig], Tools | None] = lambda _: None
) -> int:
    """Runs the sweeps one after another, or lists them; returns 1 if a trial failed."""
    cells = lay_out(config)
    if config.dry_run:
        told = listed(cells)
        trials, groups = (sum(each) for each in zip(*map(_counts, told), strict=True))
        lines = [f"{each['sweep']}: {', '.join(each['trials'])}" for each in told]
        lines += [f"{len(told)} sweeps, {trials} trials, {groups} groups that compile a step each"]
        print(json.dumps(told) if config.json else "\n".join(lines))
        return 0
    out, failed = as_path(config.out), []
    for number, cell in enumerate(cells, 1):
        say(f"sweep {number} of {len(cells)}: {cell.name}")
        told = {"out": str(out / cell.name), "resume": config.resume}
        of_cell = cell.config.with_values(**told)
        _, lines = run_sweep(of_cell, base_recipe(of_cell), tools(of_cell))
        failed += [f"{cell.name}: {line}" for line in lines]
    say(f"\n{write_ablation(out, cells)}\n\n{out / 'report.md'}")
    for line in failed:
        say(f"failed: {line}")
    return 1 if failed else 0


def _counts(told: dict) -> tuple[int, int]:
    return len(told["trials"]), told["groups"]


if __name__ == "__main__":
    run(
        main,
        AblateConfig,
        "sweeps that differ in any settings, from a grid file",
        "python -m experiments.ablate experiments/ablations/rule.toml --out=runs/rule",
        positional="files",
    )
