"""Files and directories that appear whole or not at all, whenever their writer is stopped."""

from __future__ import annotations

import glob
import hashlib
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

_PARTIAL = ".partial"  # ends the name of what is not whole yet,
_REPLACED = ".replaced.partial"  # and of a directory whose successor is taking its place


def write_text(path: Path | str, text: str) -> None:
    """Writes a text file, in UTF-8, as `whole_file` does."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """A file to write, which takes its name when the block ends and is gone if it fails.

    Yields the path under which to write; after an OSError an older file is as it was.
    """
    with _beside(Path(path)) as partial:
        yield partial
        partial.replace(path)


@contextmanager
def whole_directory(path: Path | str, overwrite: bool = False) -> Iterator[Path]:
    """A directory to fill, which takes its name when the block ends and is gone if it fails.

    Yields the path under which to write. With ``overwrite`` an older directory is replaced at the
    end. Of two processes that write one directory at a time, the first to end wins. What a killed
    process left beside ``path`` goes when the same machine writes it again.

    Raises:
      FileExistsError: ``path`` exists without ``overwrite``, or another process has made it since.
    """
    path = Path(path)
    exists = FileExistsError(f"{path} exists; choose another directory or remove it")
    with _beside(path) as partial:
        if path.exists() and not overwrite:
            raise exists
        partial.mkdir()
        yield partial
        # What is replaced moves aside first and is not touched until then.
        aside = partial.with_name(partial.name.removesuffix(_PARTIAL) + _REPLACED)
        if overwrite:
            with suppress(FileNotFoundError):
                path.rename(aside)
        try:
            partial.rename(path)
        except OSError:
            if path.exists():
                raise exists from None
            if aside.exists():
                aside.rename(path)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def sha256_of_file(path: Path) -> str:
    """Hashes the bytes of a file, which is never held in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_files(directory: Path, digests: Mapping[str, str]) -> None:
    """Refuses a directory whose files, by name, are not those of the `sha256_of_file` recorded."""
    for name, digest in digests.items():
        file = directory / name
        if not file.is_file() or sha256_of_file(file) != digest:
            fault = "changed since it was written" if file.is_file() else "no such file"
            raise ValueError(f"{file}: {fault}; restore a copy, or write the directory again")


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A name of this process beside ``path``, under which nothing is left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ours = f".{path.name}.{platform.node()}."
    partial = path.with_name(f"{ours}{os.getpid()}{_PARTIAL}")
    for left in path.parent.glob(f"{glob.escape(ours)}*{_PARTIAL}"):
        process = left.name.removeprefix(ours).partition(".")[0]
        if left != partial and _runs(process):
            continue
        if left.name.endswith(_REPLACED) and not path.exists():
            left.rename(path)  # its process was killed before the successor had the name
        _remove(left)
    try:
        yield partial
    finally:
        _remove(partial)


def _runs(process: str) -> bool:
    """Whether a process of this machine still runs; what is no number of one counts as running."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError):  # it belongs to somebody else
        pass
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
