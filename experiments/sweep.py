"""The main job: sweeps budgets, rates and methods over a stream of facts, and reports.

It builds (or reuses) the base, teaches the stream task by task with every method, and measures
after each task what was learned and what was forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from experiments.cli import run
from experiments.configs import base_recipe
from experiments.dry_run import Planned, dry_run
from experiments.report.write import write_report
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.launch import launch
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.sweep import Tools, run_sweep
from smf_jax.paths import as_path
from smf_jax.processes import is_first
from smf_jax.progress import say


def main(
    config: SweepConfig, tools: Tools | None = None, report: Callable[..., str] = write_report
) -> int:
    """Runs the sweep and writes its report with ``report``; returns 1 if a trial failed."""
    told = config.run
    if told.dry_run:
        sweep = Planned(as_path(told.out).name, {}, config)
        dry_run([sweep], False, told.out if told.calibrate else "", lambda _: tools)
        return 0
    if config.launch.launcher != "none":
        RunDirectory(told.out).check(config)
        return launch(config.launch, config.values(), told.out, "experiments.sweep:run_share")
    directory, failed = run_sweep(config, base_recipe(config), tools)
    if not is_first():  # whose copy of the run is gone, and needs no report
        return 1 if failed else 0
    table = report(directory.path)
    say(f"\n{table}\n\n{directory.path / 'report.md'}")
    for line in failed:
        say(f"failed: {line}")
    return 1 if failed else 0


def run_share(values: Mapping[str, Any]) -> int:
    """What a job of `--launcher` runs: a share of a sweep, whose configuration stands by flag."""
    return main(SweepConfig.of(**values))


if __name__ == "__main__":
    run(
        main,
        SweepConfig,
        "sweep slot budgets, rates and methods over a stream of facts",
        "python -m experiments.sweep --slots=64,512 --lr=smf:30,60/full:3e-5,1e-4 --out=runs/world",
    )
