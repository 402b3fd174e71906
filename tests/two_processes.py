"""A small sweep by two processes of four devices each, and by one of eight: the same results.

``python -m tests.two_processes`` runs both and compares; it takes half a minute. ``--ablate`` has
an ablation of two such sweeps run in its place.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SWEEP = dict(methods="smf,lora", slots="16,64", lr="smf:30/lora:0.3", seeds="0,1")
SWEEP |= dict(optimizer="lora:sgd", mesh="trial:4,data:2")
LIMIT = 600  # seconds


def run_sweep(base: str, out: str, devices: int, told: dict[str, str | int]) -> int:
    """The sweep in this process."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_disable_most_optimizations", True)
    from experiments import sweep
    from smf_jax.continual.config import SweepConfig
    from smf_jax.continual.run_config import read_config
    from tests.tiny_sweep import TINY_SWEEP

    config = SweepConfig.of(**{**TINY_SWEEP, **SWEEP, "base": base, "out": out, **told})
    # As a report, it needs a run, which the first alone has at the end.
    return sweep.main(config, report=lambda place: f"{read_config(place).run.out} is a run")


def run_ablation(base: str, out: str, devices: int, told: dict[str, str | int]) -> NoReturn:
    """Two sweeps, one after the other, by the command, in this process, which ends with it."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_disable_most_optimizations", True)
    from tests.tiny_sweep import TINY_SWEEP

    settings = {**TINY_SWEEP, **SWEEP, "base": base, "methods": "smf", "lr": "smf:30"}
    del settings["optimizer"]
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    with tempfile.TemporaryDirectory() as place:
        grid = Path(place, "grid.toml")
        grid.write_text("\n".join(["[settings]", *lines, "[cross]", 'rule = ["tfidf", "tf"]']))
        flags = [f"--{name}={value}" for name, value in told.items()]
        sys.argv = ["ablate", str(grid), f"--out={out}", *flags]
        runpy.run_module("experiments.ablate", run_name="__main__", alter_sys=True)
    raise AssertionError("a command ends its process")


def started(base: str, out: Path, devices: int, *more: str) -> subprocess.Popen[str]:
    """The sweep in a process of its own."""
    command = [sys.executable, "-m", "tests.two_processes", f"--base={base}", f"--out={out}"]
    command += [f"--devices={devices}", *more]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), **pipes)  # pyright: ignore


def free_address() -> str:
    """Where the first of several processes may be found by the others."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return f"localhost:{probe.getsockname()[1]}"


def together(base: str, out: Path, *more: str) -> None:
    """The sweep by two processes as one; both have to succeed."""
    address = free_address()
    both = [
        started(base, out, 4, f"--coordinator={address}", f"--process={p}", *more) for p in range(2)
    ]
    try:
        for process in both:
            told, _ = process.communicate(timeout=LIMIT)
            assert process.returncode == 0, told[-4000:]
    finally:
        for process in both:
            process.kill()


def compare(base: str, place: Path, *more: str) -> str:
    """Runs the sweep both ways; what is equal, in words. AssertionError if something is not."""
    if not (place / "one").exists():
        alone = started(base, place / "one", 8, *more)
        told, _ = alone.communicate(timeout=LIMIT)
        assert alone.returncode == 0, told[-4000:]
    together(base, place / "two", *more)
    sweeps = sorted(path.parent.relative_to(place / "one")
                    for path in (place / "one").rglob("config.json"))  # fmt: skip
    assert sweeps
    told = [compare_runs(place / "one" / each, place / "two" / each) for each in sweeps]
    return "\n".join(told)


def compare_runs(alone: Path, together: Path) -> str:
    """What is equal in two directories of a run; AssertionError if something is not."""
    from tests.tiny_sweep import checkpoints_of, rows_of

    one, two = rows_of(alone), rows_of(together)
    assert [(row["trial"], row["task"]) for row in one] == [
        (row["trial"], row["task"]) for row in two
    ]
    largest = 0.0
    for mine, theirs in zip(one, two, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            if isinstance(value, float):
                largest = max(largest, abs(value - theirs[name]) / max(abs(value), 1e-6))
                np.testing.assert_allclose(theirs[name], value, rtol=1e-4, err_msg=name)
            else:
                assert theirs[name] == value, name
    mine, theirs = checkpoints_of(alone), checkpoints_of(together)
    assert mine == theirs  # digests and metadata
    files = [sorted(str(p.relative_to(run)) for p in run.rglob("*")
                    if "array" not in str(p) and not p.name.startswith("."))
             for run in (alone, together)]  # fmt: skip
    assert [name for name in files[0] if "manifest" not in name] == [
        name for name in files[1] if "manifest" not in name
    ]
    return (
        f"{len(one)} rows of {len({row['trial'] for row in one})} trials and {len(mine)} "
        f"checkpoints equal; the largest difference of a number is {largest:.1e} of it"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("base", "out", "coordinator"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--ablate", action="store_true")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--process", type=int, default=-1)
    given = parser.parse_args()
    if given.out:
        told: dict[str, str | int] = {}
        if given.coordinator:
            told = dict(coordinator=given.coordinator, processes=2, process=given.process)
        run = run_ablation if given.ablate else run_sweep
        return run(given.base, given.out, given.devices, told)
    with tempfile.TemporaryDirectory() as place:
        base = given.base or str(Path(place, "base"))
        if not given.base:
            make = (
                "from experiments import pretrain\n"
                "from smf_jax.bases.pretrain_config import PretrainConfig\n"
                "from tests.tiny_sweep import TINY_BASE\n"
                f"pretrain.main(PretrainConfig.of(out={base!r}, **TINY_BASE))"
            )
            subprocess.run([sys.executable, "-c", make], cwd=ROOT, check=True)
        print(compare(base, Path(place), *(["--ablate"] if given.ablate else [])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
