"""Locks of what one process at a time may write, which outlive no process that has one.

They are files on a disk that machines may share, or objects in a store. The kernel knows the
processes of this machine; one of another is dead when nothing has been heard of it for long. A
holder that was itself silent for so long, or finds another in its place, ends before it writes
again. Of the processes of one program (`jax.distributed`) the first has the lock for all.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import jax

from smf_jax import interrupts
from smf_jax.checkpoints.files import write_text
from smf_jax.paths import create, is_remote
from smf_jax.progress import say

BEAT = 20.0  # seconds between two signs of life of a holder,
FRESH = 60.0  # age of one that tells of a living process, if the clocks agree,
SILENT = 120.0  # and how long another machine is listened to before its process counts as dead
SETTLE = 2.0  # after which of two who made an object at once both read the same one
POLL = 0.5


@dataclass(frozen=True)
class Holder:
    """A process that has a lock, as the file tells it; without values one that cannot be read."""

    host: str = "?"
    machine: str = "?"  # host, boot and process namespace: where the process id means something
    pid: int = 0
    started: str = ""  # as the kernel counts it: process ids are given again
    since: str = "?"
    token: str = ""  # of this very lock
    trials: Sequence[str] = ()  # by their ids
    beat: float = 0.0  # the last sign of life, in seconds since 1970

    def lives(self, first_seen: float = float("inf")) -> bool | None:
        """Whether it still runs; ``None`` while another machine that is silent is listened to.

        ``first_seen`` is the monotonic time at which its last sign of life was first read.
        """
        if self.machine == _machine():
            return _started(self.pid) in ("", self.started)
        if abs(time.time() - self.beat) < FRESH:
            return True
        return None if time.monotonic() - first_seen < SILENT else False

    def refuse(self, work: str) -> None:
        """Refuses what this process is doing already."""
        heard, remedy = "", ""
        # Not every command that writes somewhere has the flag.
        other = ", stop it, or give another --out" if work.startswith("--out=") else ", or stop it"
        if self.machine != _machine():
            heard = f" and heard of {abs(time.time() - self.beat):.0f} seconds ago"
            remedy = f" (if that machine is gone, try again in {SILENT:.0f} seconds)"
        raise BlockingIOError(
            f"{work} is being written by process {self.pid} on {self.host}, since {self.since}"
            f"{heard}; wait until it ends{remedy}{other}"
        )


class Lock:
    """A lock that this process has."""

    def __init__(self, path: Path, own: Holder) -> None:
        """Of the file at ``path``, where ``own`` stands."""
        self._path, self._own = path, own
        self._heard = time.monotonic()  # when its file was last seen to be ours
        self._ended = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._beats.start()

    def require(self) -> None:
        """Raises OSError if it is another's by now, or may be: before what only a holder writes."""
        try:
            found = _read(self._path)
        except Exception:  # a disk or a store that is away for a moment
            if time.monotonic() - self._heard < SILENT - FRESH:
                return
            raise OSError(
                f"{self._path} could not be reached for so long that others may have taken it; "
                "look at the disk or the network, then go on with --resume"
            ) from None
        if found is None or found.token != self._own.token:
            now = f"process {found.pid} on {found.host} has it" if found else "it was removed"
            raise OSError(f"{self._path} was taken from this silent process: {now}")
        self._heard = time.monotonic()

    def release(self) -> None:
        """Ends the signs of life, and removes the file unless it is another's."""
        self._ended.set()
        self._beats.join(BEAT)
        with suppress(Exception):  # as above: it goes silent, and others take it over
            _remove(self._path, self._own)

    def _beat(self) -> None:
        """Gives signs of life; ends the process if its lock has become that of another."""
        while not self._ended.wait(BEAT):
            try:
                self.require()
            except OSError as error:
                interrupts.stop(error)
                return
            with suppress(Exception):  # as above
                beat = asdict(replace(self._own, beat=time.time()))
                write_text(self._path, json.dumps(beat))


@contextmanager
def locked(
    path: Path, work: str, trials: Sequence[str] = (), wait: Callable[[], None] | None = None
) -> Iterator[Lock | None]:
    """Has the lock at ``path`` while the block runs; ``work`` is for errors, as in ``--out=a``.

    With ``wait``, which is called again and again and may raise, it is waited for. Yields ``None``
    where the first of the processes of one program has it.

    Raises:
      BlockingIOError: a living process has the lock, and there is no ``wait``.
    """
    if not _is_first():
        yield None
        return
    made = not path.parent.exists()
    lock = Lock(path, _take(path, work, trials, wait))
    try:
        yield lock
    finally:
        lock.release()
        if made and not is_remote(path):  # a store has no directories
            with suppress(OSError):  # something has been written into it
                path.parent.rmdir()


def lock_of(path: Path) -> Path:
    """Where the lock of a file or a directory lies: beside what links lead to."""
    whole = path if is_remote(path) else path.resolve()
    return whole.with_name(f".{whole.name}.lock")


def _is_first() -> bool:
    """Whether this is the process of its program that has the locks."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def _take(path: Path, work: str, trials: Sequence[str], wait: Callable[[], None] | None) -> Holder:
    pid, since, token = os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S %Z"), uuid.uuid4().hex
    of_process = (platform.node(), _machine(), pid, _started(pid) or "", since)
    own = Holder(*of_process, token, tuple(trials))
    heard, told = dict[Holder, float](), set[str]()
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError, FileNotFoundError):  # the second: it was tidied up just now
            own = replace(own, beat=time.time())
            create(path, json.dumps(asdict(own)))
            if is_remote(path):  # two may have made it at once: the last one's stays
                time.sleep(SETTLE)
            if not is_remote(path) or _token(path) == own.token:
                return own
        if (holder := _read(path)) is None:
            continue
        lives = holder.lives(heard.setdefault(holder, time.monotonic()))
        if lives and wait is None:
            holder.refuse(work)
        if lives is False:
            # Who may remove it has a lock on that: another may have read it, removed it and be gone
            # since, and this would be the lock of a successor.
            with locked(path.with_name(f"{path.name}.{holder.token}"), work, wait=wait):
                _remove(path, holder)
            continue
        if holder.token not in told and time.monotonic() - heard[holder] > POLL / 2:
            told.add(holder.token)
            how = "" if lives else f"; if it stays silent, for {SILENT:.0f} seconds"
            say(f"{work}: waiting for process {holder.pid} on {holder.host}{how}")
        if wait:
            wait()
        interrupts.check()
        time.sleep(POLL)


def _read(path: Path) -> Holder | None:
    """Who had the lock last, ``None`` if nobody has it."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return Holder(**{**told, "trials": tuple(told["trials"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):  # it is being written, or its process was killed then
        return Holder()


def _token(path: Path) -> str | None:
    """That of who has the lock."""
    found = _read(path)
    return found and found.token


def _remove(path: Path, holder: Holder) -> None:
    """Removes the lock if it is this holder's."""
    if _token(path) == holder.token:
        path.unlink(missing_ok=True)


@cache
def _machine() -> str:
    parts = [platform.node()]
    with suppress(OSError):  # Linux: containers of one name have process ids of their own
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """When a process of this machine started, empty if that is not told, ``None`` if it ended."""
    try:
        os.kill(pid, 0)
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except ProcessLookupError:
        return None
    except OSError:  # it is somebody else's, or there is no /proc
        return ""
    return None if state in "ZX" else rest[18]


class RunLocks:
    """The locks of a run: one of each share that is at work, and one of who starts.

    Only who has the latter takes one of the former, makes or removes what all shares need, or draws
    the report. Trials are told by their ids; ``None`` are all, whoever has them.
    """

    def __init__(self, directory: Path, shard: str) -> None:
        self._directory = directory
        self._work = f"--out={directory}"
        self._start = directory / ".lock"
        self._own = directory / f".lock-{shard.replace('/', '-of-')}"
        self._writes: Lock | None = None

    def _held(self, trials: Iterable[str] | None) -> Iterator[tuple[Path, Holder]]:
        """The locks of any of the trials; their holders may be dead."""
        if not _is_first():
            return
        for path in sorted(self._directory.glob(".lock-*")):
            holder = _read(path)
            if holder and (trials is None or not {*trials}.isdisjoint(holder.trials)):
                yield path, holder

    def refuse(self, trials: Iterable[str] | None) -> None:
        """Refuses what `writing` would, where that can be told at once."""
        for _, holder in self._held(trials):
            if holder.lives():
                holder.refuse(self._work)

    def starting(self, trials: Iterable[str] | None = ()) -> AbstractContextManager[Lock | None]:
        """The lock of who starts; it is waited for, unless another is at work on the trials."""
        return locked(self._start, self._work, wait=lambda: self.refuse(trials))

    def settle(self, trials: Iterable[str] | None) -> None:
        """Waits until nobody starts, then does as `refuse`; nothing is touched."""
        if _is_first() and self._start.exists():
            with self.starting(trials):
                pass
        self.refuse(trials)

    @contextmanager
    def writing(self, own: Sequence[str], trials: Iterable[str] | None) -> Iterator[None]:
        """The lock of the own trials, if nobody has any of the trials; taken while `starting`.

        Raises:
          BlockingIOError: if a living process has one of them.
        """
        for path, _ in self._held(trials):
            with locked(path, self._work):  # what a dead holder has left goes
                pass
        with locked(self._own, self._work, own) as self._writes:
            try:
                yield
            finally:
                self._writes = None

    def require(self) -> None:
        """Raises OSError if what this process has in `writing` may be another's by now."""
        if self._writes is not None:
            self._writes.require()
