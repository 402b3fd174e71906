"""Ablations: sweeps that differ in any settings, from a file, with one report over all of them.

A file says what is crossed, zipped or changed one at a time (docs/ablations.md). Each sweep lies in
a directory of its own in ``--out`` and goes on where it stopped with ``--resume``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.cli import run
from experiments.configs import base_recipe, preset_of
from experiments.dry_run import MakeTools, Planned, check_all, dry_run, trials_of
from experiments.report.ablation import write_ablation
from smf_jax.checkpoints.files import write_text
from smf_jax.command import writing
from smf_jax.configuration import Configuration, PathText, part, setting
from smf_jax.continual.ablation import Cell, read_ablation
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.devices import ProcessConfig, as_one_program
from smf_jax.continual.plan import check_settings_of
from smf_jax.continual.run_config import NOT_COMPARED
from smf_jax.continual.sections import CALIBRATE_ALONE
from smf_jax.continual.sweep import run_sweep
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
    calibrate: bool = setting(
        False,
        "with --dry_run: compile and time a step of each group, and predict hours from it; also "
        "written to OUT.estimate.json",
    )
    json: bool = setting(False, "the list as JSON")
    processes: ProcessConfig = part(ProcessConfig(), "Several processes as one")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calibrate and not self.dry_run:
            raise ValueError(CALIBRATE_ALONE)


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
            trials = trials_of(cell.config)
            with blame_flag(f"{cell.name}: "):
                if cell.config.devices.are_several:
                    raise ValueError(
                        "distributed is set in the file, which does not know who runs it; leave it "
                        "out, and give --distributed or --coordinator to the command"
                    )
                check_settings_of(cell.config, trials)
            for trial in trials:
                if twice := sorted(cell.changes.keys() & dict(trial.varied).keys()):
                    raise ValueError(f"{twice[0]} varies by --vary too; give it in one of them")
    return cells


def main(config: AblateConfig, tools: MakeTools = lambda _: None) -> int:
    """Runs the sweeps one after another, or lists them; returns 1 if a trial failed."""
    cells = lay_out(config)
    sweeps = [Planned(cell.name, dict(cell.changes), cell.config) for cell in cells]
    if config.dry_run:
        dry_run(sweeps, config.json, config.out if config.calibrate else "", tools)
        return 0
    # Before anything asks for a device, and once for all sweeps.
    with as_one_program(config.processes, config.out) as own, writing(config):
        failed = _run(cells, sweeps, config.with_values(out=own), tools)
        say(f"\n{write_ablation(as_path(own), cells)}\n\n{as_path(own) / 'report.md'}")
    for line in failed:
        say(f"failed: {line}")
    return 1 if failed else 0


def _run(
    cells: tuple[Cell, ...], sweeps: list[Planned], config: AblateConfig, tools: MakeTools
) -> list[str]:
    """Runs the sweeps one after another; a line for each trial that failed."""
    out, failed = as_path(config.out), []
    text = _told(cells)
    _require_room(out, text, config.resume)
    check_all(sweeps, tools)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / GRID, text)
    for number, cell in enumerate(cells, 1):
        say(f"sweep {number} of {len(cells)}: {cell.name}")
        told = {"out": str(out / cell.name), "resume": config.resume, **config.processes.values()}
        of_cell = cell.config.with_values(**told)
        _, lines = run_sweep(of_cell, base_recipe(of_cell), tools(of_cell))
        failed += [f"{cell.name}: {line}" for line in lines]
    return failed


def _told(cells: tuple[Cell, ...]) -> str:
    """What an ablation is, as its directory tells it."""
    told = [{"sweep": cell.name, **cell.config.values(), "out": ""} for cell in cells]
    return json.dumps(told, indent=1) + "\n"


def _decisive(text: str) -> list[dict[str, Any]]:
    """Of such a text what decides numbers: not how its sweeps are saved, followed or listed."""
    with blame_flag(f"{GRID}: "):
        told = json.loads(text)
    return [{k: v for k, v in each.items() if k not in NOT_COMPARED} for each in told]


def _require_room(out: Path, text: str, resume: bool) -> None:
    """Refuses a directory of another grid, or one that is not new; nothing is written."""
    if is_whole(out):
        if not resume:
            raise FileExistsError(f"--out={out} exists; give another directory, or --resume")
        file = out / GRID
        if not file.is_file() or _decisive(file.read_text(encoding="utf-8")) != _decisive(text):
            raise ValueError(f"--out={out} is of another grid; give another directory")
    require_writable(str(out), "out", inside=True)


if __name__ == "__main__":
    run(
        main,
        AblateConfig,
        "sweeps that differ in any settings, from a grid file",
        "python -m experiments.ablate experiments/ablations/rule.toml --out=runs/rule",
        positional="files",
        locks=False,  # it takes that of --out itself, when its processes are joined
    )
