"""Progress bars with time left, on standard error."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tqdm import tqdm

from smf_jax import interrupts
from smf_jax.processes import is_first

SECONDS = 3.0  # between two looks at what is under way


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


@contextmanager
def live_lines(
    names: Sequence[str], look: Callable[[], Sequence[str]], seconds: float = SECONDS
) -> Iterator[None]:
    """A line below all bars for each name while the block runs, on a terminal only.

    A thread draws them, so that nobody waits: every few seconds it calls ``look``, which gives a
    text for each name, or nothing yet.
    """
    if not names or not sys.stderr.isatty():
        yield
        return
    bars = [
        tqdm(desc=name, bar_format="{desc}", position=place, leave=False, file=sys.stderr)
        for place, name in enumerate(names, 1)  # below the bar of the command
    ]
    ended = threading.Event()

    def draw() -> None:
        while not ended.wait(seconds):
            # Of the others, which have no name, no line is shown.
            for bar, name, text in zip(bars, names, look(), strict=False):
                bar.set_description_str(f"{name}: {text}")

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for bar in reversed(bars):
            bar.close()


def say(text: str) -> None:
    """Prints a line above any bar; of several processes that run as one the first prints."""
    if not is_first():
        return
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()
