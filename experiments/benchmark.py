"""Times what a step costs: the read, the lookup, the memory's step, whole models, sweeps, decoding.

``python -m experiments.benchmark --suite=step`` takes contestants in turns, tells each with its
spread, the floor that bytes and operations set on this machine, and its memory, and checks the
ratios that must hold. ``--out=DIR`` keeps it as JSON, as tables and as pictures.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import accelerator, generate, lookup, read, step, sweep, tpu, train
from benchmarks.flags import BenchmarkFlags
from benchmarks.machine import describe_machine, machine_line, measure_rates
from benchmarks.pictures import draw_growth
from benchmarks.results import Report
from benchmarks.tables import check_table, markdown
from experiments.cli import run
from smf_jax.errors import require_writable
from smf_jax.progress import say

RESULTS, TABLES = "results.json", "results.md"
_SUITES: dict[str, Callable[[BenchmarkFlags, Report], None]] = {
    "read": read.run,
    "lookup": lookup.run,
    "step": step.run,
    "train": train.run,
    "sweep": sweep.run,
    "generate": generate.run,
    "accelerator": accelerator.run,
    "tpu": tpu.run,
}


def check_output(out: str, overwrite: bool) -> Path | None:
    """Where results go, if anywhere.

    Raises:
      FileExistsError: if something stands there that may not be replaced.
    """
    if not out:
        return None
    path = Path(out)
    require_writable(out, "out")
    if not path.exists():
        return path
    if not overwrite:
        raise FileExistsError(f"--out={out} exists; choose another directory or give --overwrite")
    if not path.is_dir() or (any(path.iterdir()) and not (path / RESULTS).is_file()):
        raise FileExistsError(
            f"--out={out} exists and holds no benchmark, so --overwrite does not replace it; "
            "choose another directory or remove it yourself"
        )
    return path


def write_results(directory: Path, result: Mapping[str, Any]) -> None:
    """Writes the JSON, the tables and the pictures of what has been measured so far."""
    directory.mkdir(parents=True, exist_ok=True)
    pictures = draw_growth(result)
    for old in directory.glob("*.png"):
        if old.stem in _SUITES and old.stem not in pictures:
            old.unlink()
    for name, figure in pictures.items():
        figure.savefig(directory / f"{name}.png")
    (directory / TABLES).write_text(markdown(result), encoding="utf-8")
    whole = directory / f".{RESULTS}.partial"
    whole.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    whole.replace(directory / RESULTS)


def main(flags: BenchmarkFlags) -> int:
    """Runs the suites, one after the other; what is done is kept after each."""
    flags.check()
    out, suites = check_output(flags.out, flags.overwrite), flags.suites()
    if "tpu" in suites:
        tpu.prepare()
    # A program that was compiled last week would be said to compile in no time.
    jax.config.update("jax_enable_compilation_cache", False)
    report = Report(describe_machine(), dataclasses.asdict(flags), say)
    say(machine_line(report.machine))
    if "tpu" not in suites:
        report.rates = measure_rates(dtype=jnp.bfloat16 if "accelerator" in suites else jnp.float32)
        say(
            f"copies at {report.rates.copy_bytes / 1e9:.3g} GB/s, multiplies {report.rates.dtype} "
            f"matrices at {report.rates.operations / 1e9:,.0f} GFLOP/s"
        )
    for suite in suites:
        say(f"\n{suite}")
        _SUITES[suite](flags, report)
        if out is not None:
            write_results(out, report.to_dict())
    result = report.to_dict()
    if flags.markdown:
        say(f"\n{markdown(result)}")
    elif report.checks:
        say(f"\n{check_table(result['checks'])}")
    if out is not None:
        say(f"\n{out / RESULTS}")
    return 0


if __name__ == "__main__":
    run(
        main,
        BenchmarkFlags,
        "experiments.benchmark",
        "time what a step costs, against other ways and against the machine",
        "python -m experiments.benchmark --suite=step --table_slots=16384,1048576 --out=runs/step",
    )
