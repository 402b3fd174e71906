"""`python -m experiments.report runs/NAME`: draws the report of a run again, from its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from experiments.cli import run
from experiments.report.write import write_report
from smf_jax.configuration import Configuration
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
        table = write_report(Path(directory))
        say(f"\n{table}\n\n{Path(directory) / 'report.md'}")
    return 0


if __name__ == "__main__":
    run(
        main,
        ReportConfig,
        "draw the report of a run again, from its files alone",
        "python -m experiments.report runs/NAME",
        positional="runs",
    )
