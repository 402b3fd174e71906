"""Progress bars with time left, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from smf_jax import interrupts


@contextmanager
def progress_bar(total: int, what: str, unit: str = "step") -> Iterator[Callable[[int], None]]:
    """A bar with ``what`` before it; yields a function to be told the number done so far.

    Where standard error is no terminal, it is redrawn every ten seconds only, so that logs stay
    readable.
    """
    interval = 0.2 if sys.stderr.isatty() else 10.0
    with tqdm(total=total, desc=what, unit=unit, mininterval=interval, file=sys.stderr) as bar:

        def advance(done: int) -> None:
            interrupts.check()
            bar.update(done - bar.n)

        yield advance


def say(text: str) -> None:
    """Prints a line above any bar."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()
