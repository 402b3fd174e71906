"""Kills a tiny sweep at random moments and resumes it: every result is that of one left alone.

python -m tests.kills --kills=20                one process
python -m tests.kills --kills=20 --shards=2     two that share a directory, either of them killed
python -m tests.kills --kills=20 --processes=2  two that run as one, either of them killed
python -m tests.kills --kills=20 --signal=TERM  by a signal that a process hears of

A third of the kills come at any moment, a third in the first seconds, a third within a save. A run
that ended before it could be killed is compared, and another one begins. Of processes that run as
one those that are left have to end by themselves, in bounded time and with a line that says how to
go on; then all are started again.
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
from smf_jax import processes as as_one
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.continual.config import SweepConfig
from tests.tiny_sweep import TINY_BASE, TINY_SWEEP, checkpoints_of, rows_of
from tests.two_processes import free_address

GIVEN: dict[str, Any] = {**TINY_SWEEP, "methods": "smf,full", "seeds": "0", "save_every": 2}
GIVEN |= {"lr": "smf:30/full:1e-3,1e-2", "optimizer": "smf:sgd/full:adamw"}
WRITING = (".partial", "orbax-checkpoint-tmp", ".incoming")  # in the names of what is being written
HEARD = 60.0  # seconds within which a process ends after a signal, on a machine that is busy
LONGEST = 3600.0  # seconds after which a run hangs
# Seconds within which those end that one has left: JAX's for a silent one, or for one that never
# came, and some for a machine that has other work.
LEFT = max(as_one.SILENT, as_one.WAIT) + 120.0


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
    """A process of a sweep, or of a share of one."""

    out: Path
    told: dict[str, Any]  # its flags
    log: Path
    pid: int = 0
    status: int | None = None  # the exit status, once it has ended by itself
    started: float = field(default_factory=time.monotonic)
    spoken: int = 0  # bytes of the log that are not its own

    def start(self) -> Process:
        """Begins or resumes it; this process has imported everything, and computes nothing."""
        self.spoken = self.log.stat().st_size if self.log.exists() else 0
        self.pid = fork(self._run)
        return self

    def _run(self) -> None:
        log = os.open(self.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        for stream in (1, 2):
            os.dup2(log, stream)
        run_command(
            lambda config: sweep.main(config, report=lambda *_: ""),
            SweepConfig,
            "",
            "python -m x",
            arguments=[f"--{name}={value}" for name, value in self.told.items()],
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

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Ends it by a signal; one that it hears of gives it some time."""
        os.kill(self.pid, number)
        sent = time.monotonic()
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        assert time.monotonic() - sent < HEARD, f"{self.log}: not ended by signal {number}"

    def words(self) -> str:
        """What it has written to its terminal."""
        return self.log.read_bytes()[self.spoken :].decode()

    def advised(self) -> bool:
        """Whether it told how to go on."""
        return "--resume" in self.words() or "HOST:PORT" in self.words()


class Share:
    """A sweep, or a share of one: a process, or several that run as one."""

    def __init__(self, out: Path, shard: str, base: Path, processes: int) -> None:
        told = {**GIVEN, "base": base, "out": out, "shard": shard, "resume": True}
        each = [told]
        if processes > 1:
            del told["save_every"]  # which is refused
            address = {"coordinator": free_address(), "processes": processes}
            told |= {**address, "mesh": f"trial:{processes},data:2"}
            each = [{**told, "process": number} for number in range(processes)]
        logs = [out.with_suffix(f".{shard[0]}-{number}.log") for number in range(processes)]
        pairs = zip(each, logs, strict=True)
        self.processes = [Process(out, flags, log).start() for flags, log in pairs]

    def ended(self) -> bool:
        """Whether all of it has ended by itself; well, or an AssertionError tells."""
        if not all([each.ended() for each in self.processes]):
            return False
        for each in self.processes:
            told = f"{each.log} ended with {each.status}:\n{each.words()[-2000:]}"
            assert each.status == 0, told
        return True

    def kill(self, noise: random.Random, number: int, is_done: Callable[[], bool]) -> float:
        """Kills one of its processes that run; the seconds until the others have ended.

        These end with a word of how to go on, or well, where all `is_done`.
        """
        victim = noise.choice([each for each in self.processes if not each.ended()])
        victim.kill(number)
        at, left = time.monotonic(), [each for each in self.processes if each is not victim]
        while not all([each.ended() for each in left]):
            if time.monotonic() - at > LEFT:
                for each in left:
                    each.kill()
                raise AssertionError(f"{left[0].log}: it did not end after another was killed")
            time.sleep(0.02)
        seconds = time.monotonic() - at
        for each in left:
            told = f"{each.log} ended with {each.status}:\n"
            if each.status == 0:
                assert is_done(), told + each.words()[-2000:]
                continue
            assert each.status in (-signal.SIGABRT, 128 + signal.SIGABRT, 2), told
            while not each.advised():  # of one that is aborted it is said when it is gone
                assert time.monotonic() - at < seconds + HEARD, told + each.words()[-2000:]
                time.sleep(0.02)
        return seconds


def finish(shares: Sequence[Share]) -> None:
    """Waits for all; each is to end well."""
    while not all([each.ended() for each in shares]):
        time.sleep(0.02)


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


def kill_and_resume(told: argparse.Namespace, base: Path, place: Path) -> dict[str, Any]:
    """Does all that this script says; AssertionError tells what a kill has broken."""
    noise, started = random.Random(told.seed), time.monotonic()
    number = signal.Signals[f"SIG{told.signal}"]
    names = [f"{number}/{told.shards}" for number in range(told.shards)]
    whole = place / "whole"
    begun = time.monotonic()
    # In as many shares: rounding depends on how many trials run side by side.
    alone = [Share(whole, name, base, told.processes) for name in names]
    while not all([each.ended() for each in alone]) and not [*whole.glob("results*.jsonl")]:
        time.sleep(0.02)
    first_row = time.monotonic() - begun
    finish(alone)
    seconds, wanted = time.monotonic() - begun, len(rows_of(whole))
    by_kind = dict.fromkeys(("at any moment", "at its start", "within a save"), 0)
    done, rounds, left = 0, 0, [0.0]
    while done < told.kills:
        out = place / f"killed_{rounds}"
        running = {name: Share(out, name, base, told.processes) for name in names}
        while done < told.kills and running:
            victim = noise.choice(list(running))
            kind = list(by_kind)[done % 3]
            at = time.monotonic() + moment(kind, noise, seconds, first_row)
            while not running[victim].ended():
                late = time.monotonic() >= at
                if late and (kind != "within a save" or is_writing(out)):
                    break
                time.sleep(0.001)
            if running[victim].ended():
                del running[victim]
                continue
            left.append(
                running[victim].kill(noise, number, lambda o=out: len(rows_of(o)) == wanted)
            )
            done, by_kind[kind] = done + 1, by_kind[kind] + 1
            print(f"{done} of {told.kills}: {kind}, {left[-1]:.1f} s", file=sys.stderr, flush=True)
            apart(partial(require_whole, out, whole, ended=False))
            running[victim] = Share(out, victim, base, told.processes)
        finish(list(running.values()))
        apart(partial(require_whole, out, whole, ended=True))
        rounds += 1
    found = {"kills": done, "shards": told.shards, "processes": told.processes, "runs": rounds}
    found |= {"signal": told.signal, "rows": wanted, **by_kind, "seed": told.seed}
    if told.processes > 1:
        found["seconds until the others ended, at most"] = round(max(left), 1)
    return found | {"seconds": round(time.monotonic() - started, 1)}


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
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--signal", choices=("KILL", "TERM"), default="KILL")
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
        print(json.dumps(kill_and_resume(told, base, place)))


if __name__ == "__main__":
    main()
