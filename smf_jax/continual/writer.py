"""Writing what a sweep has done while it goes on: one thing after the other, on one thread.

Orbax can save in the background; a thread of our own has copies and digests made there too, and
keeps the order: a row of results is written when its checkpoint is whole.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from smf_jax import interrupts


class Writer:
    """Does one thing at a time in the background; a context that ends when all is done.

    An error of it stops this process at its next step (`interrupts.check`), or as soon as the next
    thing is to be done: no more than a step is computed that could not be kept.
    """

    def __init__(self) -> None:
        """Nothing is begun yet."""
        self._thread = ThreadPoolExecutor(1, "writer")
        self._begun: Future[None] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        try:
            self.wait()
        except BaseException:
            if error is None:  # else that one is told
                raise

    def do(self, work: Callable[[], None]) -> None:
        """Has something done, once what was begun before is; that keeps memory bounded.

        What ``work`` writes may not change meanwhile: buffers of a state that trains on are copied
        before. Raises what the thing before has raised.
        """
        self.wait()
        self._begun = self._thread.submit(self._do, work)

    def wait(self) -> None:
        """Waits until nothing is being done; raises the error of what was."""
        if (begun := self._begun) is None:
            return
        self._begun = None
        wait([begun])
        if (error := begun.exception()) is not None:
            interrupts.withdraw(error)
            raise error

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            interrupts.stop(error)
            raise
