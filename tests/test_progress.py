"""What is shown of what is under way: on a terminal, by a thread."""

from __future__ import annotations

import io
import sys
import threading
import time

import pytest

from smf_jax.progress import live_lines, progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal_of(monkeypatch) -> Terminal:
    """Within the test: between a fixture and it pytest takes the standard error for its own."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    return screen


def wait_for(text: str, screen: Terminal) -> None:
    until = time.monotonic() + 20
    while text not in screen.getvalue():
        assert time.monotonic() < until, screen.getvalue()
        time.sleep(0.005)


def test_lines_are_drawn_below_the_bar_and_go(monkeypatch):
    terminal = terminal_of(monkeypatch)
    looks = iter([[], ["loss 1", "loss 2"]])
    last = ["loss 3", "loss 4"]
    with progress_bar(4, "sweep", "task") as advance:
        with live_lines(["one", "other"], lambda: next(looks, last), seconds=0.01):
            for text in ("one: loss 1", "other: loss 2", "other: loss 4"):
                wait_for(text, terminal)
        count = threading.active_count()
        advance(1)
    drawn = terminal.getvalue()
    assert drawn.index("sweep") < drawn.index("one: loss 1") < drawn.index("other: loss 4")
    time.sleep(0.05)
    assert terminal.getvalue() == drawn and threading.active_count() <= count


def test_a_block_that_fails_leaves_no_line(monkeypatch):
    terminal = terminal_of(monkeypatch)
    with pytest.raises(KeyError), live_lines(["one"], lambda: ["loss 1"], seconds=0.01):
        wait_for("one: loss 1", terminal)
        raise KeyError
    drawn = terminal.getvalue()
    time.sleep(0.05)
    assert terminal.getvalue() == drawn


def test_nothing_is_looked_at_where_there_is_no_terminal(monkeypatch):
    terminal = terminal_of(monkeypatch)

    def look() -> list[str]:
        raise AssertionError("asked")

    with live_lines([], look, seconds=0.001):  # nor where there is nothing to show
        time.sleep(0.02)
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with live_lines(["one"], look, seconds=0.001):
        time.sleep(0.02)
    assert log.getvalue() == terminal.getvalue() == ""
