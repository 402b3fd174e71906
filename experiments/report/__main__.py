"""`python -m experiments.report runs/NAME`: draws the report of a run again, from its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from experiments.cli import run
from experiments.report.taught import write_taught_page
from experiments.report.write import write_report
from smf_jax.configuration import Configuration
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.paths import as_path
from smf_jax.progress import say
from smf_jax.taught.directory import RECORD


@dataclass(frozen=True)
class ReportConfig(Configuration):
    """What to report on."""

    runs: tuple[str, ...] = ()


def main(config: ReportConfig) -> int:
    """Writes and prints the report of every run, or of all runs in a directory of them.

    Of a taught model it draws the page alone; `smf teach` has written its report.
    """
    if not config.runs:
        raise ValueError("no run given; name its directory: python -m experiments.report runs/NAME")
    for path in (each for directory in config.runs for each in _runs_in(as_path(directory))):
        if (path / RECORD).is_file():
            say(str(write_taught_page(str(path))))
            continue
        say(f"\n{write_report(path)}\n\n{path / 'report.md'}")
    return 0


def _runs_in(directory: Path) -> list[Path]:
    """The directory, if it is a run, or the runs that lie in it, by name."""
    found = [] if _is_run(directory) else sorted(filter(_is_run, directory.glob("*/")))
    return found or [directory]  # which is refused by its name


def _is_run(directory: Path) -> bool:
    """A model's directory has a configuration too, of another kind."""
    try:
        RunDirectory(str(directory)).config()
    except FileNotFoundError:
        return False
    return True


if __name__ == "__main__":
    run(
        main,
        ReportConfig,
        "draw the report of a run again, from its files alone",
        "python -m experiments.report runs/NAME",
        positional="runs",
    )
