"""Refusals that a person can act on: each names the flag or argument, its value and the remedy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def blame_flag(where: str) -> Iterator[None]:
    """Puts ``where``, the flag to blame, before a ValueError or FileNotFoundError raised inside.

    It is ``--flag=value: ``; or ``--`` alone where the error begins with the name of an argument
    that is also the flag's. What begins with a flag already is left alone.
    """
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        if str(error).startswith("--"):
            raise
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{where}{error}") from error


def require_writable(path: str, name: str) -> None:
    """Refuses a directory to make where none can be: a ValueError that names flag and cause."""
    above = next(each for each in Path(path).absolute().parents if each.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(
            f"--{name}={path}: {above} is no directory that may be written in; choose another place"
        )
