"""`python -m experiments.report runs/NAME`: draws the report of a run again, from its files."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.cli import run
from experiments.report.write import write_report
from smf_jax.configuration import Configuration
from smf_jax.paths import as_path
from smf_jax.progress import say


@dataclass(frozen=True)
class ReportConfig(Configuration):
    """What to report on."""

    runs: tuple[str, ...] = ()


def main(config: ReportConfig) -> int:
    """Writes and prints the report of every run."""
    if not config.runs:
        raise ValueError("no run given; name its directory: python -m experiments.report runs/NAME")
    for directory in config.runs:
        path = as_path(directory)
        say(f"\n{write_report(path)}\n\n{path / 'report.md'}")
    return 0


if __name__ == "__main__":
    run(
        main,
        ReportConfig,
        "draw the report of a run again, from its files alone",
        "python -m experiments.report runs/NAME",
        positional="runs",
    )
