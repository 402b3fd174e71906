"""Times what a step costs: the read, the lookup, the memory's step, whole models, sweeps, decoding.

``python -m benchmarks --suite=step`` takes cases in turns, tells each with its spread, the floor
that bytes and operations set on this machine, and its memory, and checks the bounds that must
hold. ``--out=DIR`` keeps it as JSON, as tables and as pictures.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import accelerator, generate, lookup, read, real_size, step, sweep, tpu, train
from benchmarks.flags import BenchmarkConfig
from benchmarks.machine import describe_machine, machine_line, measure_rates
from benchmarks.report import Report
from benchmarks.tables import check_table, draw_growth, markdown
from experiments.cli import run
from smf_jax.errors import require_writable
from smf_jax.progress import say

Runs = Mapping[str, Callable[[BenchmarkConfig, Report], None]]
RESULTS, TABLES = "results.json", "results.md"
_MODULES = (read, lookup, step, train, sweep, generate, real_size, accelerator, tpu)
RUNS: Runs = {module.SUITE: module.run for module in _MODULES}


def check_output(out: str, overwrite: bool) -> Path | None:
    """Where results go, if anywhere; refuses to replace what may not be replaced."""
    if not out:
        return None
    path = Path(out)
    require_writable(out, "out")
    if path.exists() and not overwrite:
        raise FileExistsError(f"--out={out} exists; choose another directory or give --overwrite")
    is_used = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if is_used and not (path / RESULTS).is_file():
        raise FileExistsError(
            f"--out={out} exists and holds no benchmark, so --overwrite does not replace it; "
            "choose another directory or remove it yourself"
        )
    return path


def write_results(directory: Path, result: Mapping[str, Any]) -> None:
    """Writes the JSON, the tables and the pictures of what has been measured so far."""
    directory.mkdir(parents=True, exist_ok=True)
    for suite in RUNS:
        (directory / f"{suite}.png").unlink(missing_ok=True)
    for suite, figure in draw_growth(result).items():
        figure.savefig(directory / f"{suite}.png")
    (directory / TABLES).write_text(markdown(result), encoding="utf-8")
    whole = directory / f".{RESULTS}.partial"
    whole.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    whole.replace(directory / RESULTS)


def main(flags: BenchmarkConfig, runs: Runs = RUNS) -> int:
    """Runs the suites, one after the other; what is done is kept after each."""
    out, suites = check_output(flags.out, flags.overwrite), flags.suites()
    if "tpu" in suites:
        tpu.prepare()
    # A program that was compiled last week would be said to compile in no time.
    jax.config.update("jax_enable_compilation_cache", False)
    report = Report(describe_machine(), dataclasses.asdict(flags), say)
    say(machine_line(report.machine))
    if "tpu" not in suites:
        report.rates = measure_rates(dtype=jnp.bfloat16 if "accelerator" in suites else jnp.float32)
        say(str(report.rates))
    for suite in suites:
        say(f"\n{suite}")
        runs[suite](flags, report)
        report.check(suite)
        if out is not None:
            write_results(out, report.to_dict())
    if flags.markdown:
        say(f"\n{markdown(report.to_dict())}")
    elif report.checks:
        say(f"\n{check_table(report.checks)}")
    if out is not None:
        say(f"\n{out / RESULTS}")
    return 0


def command() -> None:
    """Reads the flags and runs."""
    run(
        main,
        BenchmarkConfig,
        "time what a step costs, against other ways and against the machine",
        "python -m benchmarks --suite=step --table_slots=16384,1048576 --out=runs/step",
    )


if __name__ == "__main__":
    command()
