"""Times what a step costs: the read, the lookup, the memory's step, whole models, sweeps, decoding.

``python -m benchmarks --suite=step`` tells each case with its spread, the floor that this machine
sets and its memory, and checks the bounds; ``--out=DIR`` keeps it as JSON and as tables.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks import (
    accelerator,
    depth,
    generate,
    lookup,
    mesh,
    read,
    real_size,
    step,
    sweep,
    tpu,
    train,
)
from benchmarks.flags import BenchmarkConfig
from benchmarks.machine import describe_machine, machine_line, measure_rates
from benchmarks.report import Report, check_table, markdown
from experiments.cli import run
from smf_jax.checkpoints.files import write_text
from smf_jax.errors import require_writable
from smf_jax.paths import as_path
from smf_jax.progress import say

Runs = Mapping[str, Callable[[BenchmarkConfig, Report], None]]
RESULTS, TABLES = "results.json", "results.md"
_MODULES = (read, lookup, step, train, sweep, generate, depth, real_size, accelerator, tpu, mesh)
RUNS: Runs = {module.SUITE: module.run for module in _MODULES}


def check_output(out: str, overwrite: bool) -> Path:
    """Where results go; refuses to replace what may not be replaced."""
    require_writable(out, "out")
    path = as_path(out)
    if path.exists() and not overwrite:
        raise FileExistsError(f"--out={out} exists; choose another directory or give --overwrite")
    is_used = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if is_used and not (path / RESULTS).is_file():
        raise FileExistsError(
            f"--out={out} exists and holds no benchmark, so --overwrite does not replace it; "
            "choose another directory or remove it yourself"
        )
    return path


def main(flags: BenchmarkConfig, runs: Runs = RUNS) -> int:
    """Runs the suites, one after the other; what is done is kept after each."""
    out = check_output(flags.out, flags.overwrite) if flags.out else None
    suites = flags.suites()
    absent = {tpu.SUITE, mesh.SUITE}.intersection(suites)  # compiled for what is not here
    if absent:
        tpu.prepare()
    # A program that was compiled last week would be said to compile in no time.
    jax.config.update("jax_enable_compilation_cache", False)
    report = Report(describe_machine(), dataclasses.asdict(flags), say)
    say(machine_line(report.machine))
    if not absent:
        report.rates = measure_rates(dtype=jnp.bfloat16 if "accelerator" in suites else jnp.float32)
        say(str(report.rates))
    for suite in suites:
        say(f"\n{suite}")
        runs[suite](flags, report)
        report.check(suite)
        if out is not None:
            write_text(out / TABLES, markdown(report.to_dict()))
            write_text(out / RESULTS, json.dumps(report.to_dict(), indent=1) + "\n")
    if flags.markdown:
        say(f"\n{markdown(report.to_dict())}")
    elif report.checks:
        say(f"\n{check_table(report.checks)}")
    if out is not None:
        say(f"\n{out / RESULTS}")
    return 0


def command() -> None:
    """Reads the flags and runs."""
    example = "python -m benchmarks --suite=step --table_slots=16384,1048576 --out=runs/step"
    summary = "time what a step costs, against other ways and against the machine"
    run(main, BenchmarkConfig, summary, example)


if __name__ == "__main__":
    command()
