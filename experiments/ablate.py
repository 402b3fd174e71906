"""Ablations: sweeps that differ in any settings, from a file, with one report over all of them.

A file says what is crossed, zipped or changed one at a time (docs/ablations.md). Each sweep lies in
a directory of its own in ``--out`` and goes on where it stopped with ``--resume``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from experiments.cli import run
from experiments.configs import base_recipe, preset_of
from experiments.report.ablation import write_ablation
from smf_jax.checkpoints.files import write_text
from smf_jax.configuration import Configuration, PathText, setting
from smf_jax.continual.ablation import Cell, read_ablation
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.grid import grid
from smf_jax.continual.sweep import Tools, run_sweep
from smf_jax.continual.trial import Trial, by_group
from smf_jax.errors import blame_flag, require_writable
from smf_jax.paths import as_path, is_whole
from smf_jax.progress import say

GRID = "ablation.json"  # what an ablation is, in its directory


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
        # By which the recipe of a built-in base is found.
        cells = told.cells(start.with_values(preset=told.preset, scale=told.scale))
        for cell in cells:
            for trial in trials_of(cell):
                if twice := sorted(cell.changes.keys() & dict(trial.varied).keys()):
                    raise ValueError(f"{twice[0]} varies by --vary too; give it in one of them")
    return cells


def trials_of(cell: Cell) -> tuple[Trial, ...]:
    """The trials of a sweep; what its grid says of idle values is said when it runs."""
    with redirect_stdout(io.StringIO()):
        return grid(cell.config.grid, cell.config.own)


def listed(cells: tuple[Cell, ...]) -> list[dict]:
    """What would run: by sweep its changes, its trials, and how many programs they need."""
    found = []
    for cell in cells:
        trials = trials_of(cell)
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
    _begin(out, cells, config)
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


def _begin(out: Path, cells: tuple[Cell, ...], config: AblateConfig) -> None:
    """Writes what the ablation is into its directory; one of another grid, or no new one, stays."""
    told = [{"sweep": cell.name, **cell.config.values(), "out": ""} for cell in cells]
    text, file = json.dumps(told, indent=1) + "\n", out / GRID
    if is_whole(out):
        if not config.resume:
            raise FileExistsError(f"--out={out} exists; give another directory, or --resume")
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            raise ValueError(f"--out={out} is of another grid; give another directory")
    require_writable(str(out), "out", inside=True)
    out.mkdir(parents=True, exist_ok=True)
    write_text(file, text)


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
