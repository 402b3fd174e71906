"""Refusals that a person can act on: each names the flag or argument, its value and the remedy."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smf_jax.paths import PathLike, as_path, is_remote, remove


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


def require_writable(path: PathLike, name: str, inside: bool = False) -> None:
    """Refuses a path to make where none can be: a ValueError that names flag and cause.

    Where ``inside``, the path is a directory to write in, which may be there.
    """
    with blame_flag(f"--{name}="):
        target = as_path(path)
    cause = ""
    if is_remote(target):
        cause = _write_refusal(target)
    else:
        places = (target / "file" if inside else target).absolute().parents
        above = next(each for each in places if each.exists())
        try:
            tempfile.TemporaryFile(dir=above).close()  # root may write everywhere but cannot
        except OSError as error:
            cause = f"{above} is no directory that may be written in ({error.strerror})"
    if cause:
        raise ValueError(f"--{name}={path}: {cause}; choose another place")


def require_memory(size: float, what: str) -> None:
    """Refuses values that need more bytes than this machine has; the error begins with them."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > there:
        raise ValueError(
            f"{what} takes {size / 2**30:,.0f} GiB, and this machine has {there / 2**30:,.0f}; "
            "lower it"
        )


def _write_refusal(target: Path) -> str:
    """Why nothing can be written beside an object: tried, for stores tell it no other way."""
    if str(target).count("/") < 3:
        return "it names a bucket and nothing in it"
    trial = target.with_name(f".{target.name}.trial")
    try:
        trial.parent.mkdir(parents=True, exist_ok=True)
        trial.write_text("")
        remove(trial)
    except Exception as error:  # of as many types as there are stores
        return f"{target.parent} may not be written in ({error!r:.160})"
    return ""
