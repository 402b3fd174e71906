"""Kills a tiny sweep at random moments and resumes it: every result is that of one left alone.

python -m tests.kills --kills=20             one process
python -m tests.kills --kills=20 --shards=2  two that share a directory, either of them killed

A third of the kills come at any moment, a third in the first seconds, a third within a save. A run
that ended before it could be killed is compared, and another one begins.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax

from experiments import pretrain, sweep
from experiments.cli import run as run_command
from smf_jax import checkpoints
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.continual.config import SweepConfig
from tests.tiny_sweep import TINY_BASE, TINY_SWEEP, checkpoints_of, rows_of

GIVEN: dict[str, Any] = {**TINY_SWEEP, "methods": "smf,full", "seeds": "0", "save_every": 2}
GIVEN |= {"lr": "smf:30/full:1e-3,1e-2", "optimizer": "smf:sgd/full:adamw"}
WRITING = (".partial", "orbax-checkpoint-tmp", ".incoming")  # in the names of what is being written
LONGEST = 3600.0  # seconds after which a run hangs


def fork(work: Callable[[], Any]) -> int:
    """Does some work in a child, of which this gives the process id.

    Whoever has computed with JAX, or read a checkpoint, has threads and cannot be forked: children
    do all of that, and this process has imported everything for them.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def apart(work: Callable[[], Any]) -> None:
    """Does some work in a child that has to end well."""
    assert os.waitpid(fork(work), 0)[1] == 0, "see above"


@dataclass
class Process:
    """A sweep, or a share of one, in a process of its own."""

    out: Path
    shard: str
    base: Path
    pid: int = 0
    status: int | None = None  # the exit status, once it has ended by itself
    started: float = field(default_factory=time.monotonic)

    def start(self) -> Process:
        """Begins or resumes it; this process has imported everything, and computes nothing."""
        self.pid = fork(self._run)
        return self

    def _run(self) -> None:
        log = os.open(self.out.with_suffix(".log"), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        for stream in (1, 2):
            os.dup2(log, stream)
        told = {**GIVEN, "base": self.base, "out": self.out, "shard": self.shard, "resume": True}
        flags = [f"--{name}={value}" for name, value in told.items()]
        run_command(
            lambda config: sweep.main(config, report=lambda *_: ""),
            SweepConfig,
            "",
            "python -m x",
            arguments=flags,
        )

    def ended(self) -> bool:
        """Whether it has ended by itself."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() - self.started > LONGEST:
                self.kill()
                raise AssertionError(f"{self.out}: it hangs")
        return self.status is not None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def finish(processes: Sequence[Process]) -> None:
    """Waits for all; each is to end well."""
    while not all([each.ended() for each in processes]):
        time.sleep(0.02)
    for each in processes:
        log = each.out.with_suffix(".log").read_text()
        assert each.status == 0, f"share {each.shard} ended with {each.status}:\n{log[-2000:]}"


def is_writing(out: Path) -> bool:
    """Whether something stands there under a name that it does not keep."""
    try:
        found = (*out.glob("*"), *out.glob(".*"), *out.glob("trials/*/*"), *out.glob("base/*"))
        return any(word in path.name for path in found for word in WRITING)
    except OSError:  # a directory that went while it was listed
        return True


def moment(kind: str, noise: random.Random, seconds: float, started: float) -> float:
    """Seconds after its start at which a process is killed, for `within a save` at the soonest."""
    return noise.uniform(0, {"at any moment": seconds}.get(kind, started))


def require_whole(out: Path, expected: Path, ended: bool) -> None:
    """Every row there is one of the run left alone, once, with its checkpoint; all, if it ended."""
    rows, wanted = rows_of(out), rows_of(expected)
    named = [(row["trial"], row["task"]) for row in rows]
    assert len(named) == len(set(named)), f"{out}: a task twice: {named}"
    assert all(row in wanted for row in rows), f"{out}: a row differs from {expected}"
    for trial, task in named:
        path = out / "trials" / trial / f"task_{task:02d}"
        assert checkpoints.is_complete(path), f"{path}: its row counts, and it is not whole"
    if ended:
        assert rows == wanted, f"{out}: {len(rows)} rows of {len(wanted)}"
        assert checkpoints_of(out) == checkpoints_of(expected), f"{out}: other checkpoints"
        assert not [*out.glob("trials/*/step_*")], f"{out}: step checkpoints are left"


def kill_and_resume(kills: int, shards: int, seed: int, base: Path, place: Path) -> dict[str, Any]:
    """Does all that this script says; AssertionError tells what a kill has broken."""
    noise, started = random.Random(seed), time.monotonic()
    names = [f"{number}/{shards}" for number in range(shards)]
    whole = place / "whole"
    begun = time.monotonic()
    # In as many shares: rounding depends on how many trials run side by side.
    alone = [Process(whole, name, base).start() for name in names]
    while not all([each.ended() for each in alone]) and not [*whole.glob("results*.jsonl")]:
        time.sleep(0.02)
    first_row = time.monotonic() - begun
    finish(alone)
    seconds = time.monotonic() - begun
    done, rounds, by_kind = (
        0,
        0,
        dict.fromkeys(("at any moment", "at its start", "within a save"), 0),
    )
    while done < kills:
        out = place / f"killed_{rounds}"
        running = {name: Process(out, name, base).start() for name in names}
        while done < kills and running:
            victim = noise.choice(list(running))
            kind = list(by_kind)[done % 3]
            at = time.monotonic() + moment(kind, noise, seconds, first_row)
            while not running[victim].ended():
                late = time.monotonic() >= at
                if late and (kind != "within a save" or is_writing(out)):
                    break
                time.sleep(0.001)
            if running[victim].ended():
                finish([running.pop(victim)])
                continue
            running[victim].kill()
            done, by_kind[kind] = done + 1, by_kind[kind] + 1
            apart(partial(require_whole, out, whole, ended=False))
            running[victim] = Process(out, victim, base).start()
        finish(list(running.values()))
        apart(partial(require_whole, out, whole, ended=True))
        rounds += 1
    told = {"kills": done, "shards": shards, "runs": rounds, "rows": len(rows_of(whole)), **by_kind}
    return told | {"seed": seed, "seconds": round(time.monotonic() - started, 1)}


def prepare(cache: Path) -> None:
    """As the tests do: two devices, and little made of programs that run once."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base", type=Path, help="of the tests, made anew if it is not given")
    parser.add_argument("--out", type=Path, help="a directory to be looked at afterwards")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = told.out or Path(scratch)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        prepare(place / "compiled")
        base = told.base
        if base is None:
            base = place / "base"
            apart(lambda: pretrain.main(PretrainConfig.of(out=str(base), **TINY_BASE)))
        print(json.dumps(kill_and_resume(told.kills, told.shards, told.seed, base, place)))


if __name__ == "__main__":
    main()
