"""SIGINT and SIGTERM: a command stops at its next step, or soon after wherever it is."""

from __future__ import annotations

import os
import select
import signal
import threading

GRACE = 5.0  # seconds to reach a step and put everything away
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_pending: BaseException | None = None


class Stopped(BaseException):
    """A signal has come; no handler of errors on the way may take it for one."""

    def __init__(self, number: int, advice: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}: {advice}")
        self.status = 128 + number


def stop(error: BaseException) -> None:
    """Ends this process at its next `check`."""
    global _pending
    _pending = _pending or error


def withdraw(error: BaseException) -> None:
    """An error that was to `stop` this process has been met elsewhere."""
    global _pending
    if _pending is error:
        _pending = None


def check() -> None:
    """Raises what is to stop this process; called between steps, never within a save.

    A signal handler that raised would do so anywhere: a callback of XLA would swallow it.
    """
    global _pending
    if (error := _pending) is not None:
        if not isinstance(error, Stopped):
            _pending = None  # who catches it may go on with something else
        raise error


def listen(advice: str) -> None:
    """From now on both signals `stop` this process; ``advice`` is told after the signal's name.

    The operating system wakes a thread, which also ends a process that is compiling: after `GRACE`
    seconds, or at a second signal. Files are whole or absent at any moment, so nothing is lost.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)
    threading.Thread(target=_watch, args=(reader, advice), daemon=True).start()


def _watch(reader: int, advice: str) -> None:
    while (number := os.read(reader, 1)[0]) not in SIGNALS:
        pass
    stop(Stopped(number, advice))
    select.select([reader], [], [], GRACE)
    os.write(2, b"\n")  # below a bar
    leave(Stopped(number, advice))


def leave(stopped: Stopped) -> None:
    """Ends the process with a line; no computation that is still under way is waited for."""
    os.write(2, f"{stopped}\n".encode())  # the main thread may hold the buffer of standard error
    os._exit(stopped.status)


def finish() -> None:
    """Raises as `check`, or from now on both signals go unheard: Python's end takes a while."""
    check()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
