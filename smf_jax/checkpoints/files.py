"""Files and directories that appear whole or not at all, whenever their writer is stopped.

On a disk they are made beside their place and renamed. An object store renames nothing: they are
made on this machine and sent; a directory counts as incomplete until the last file is there.
"""

from __future__ import annotations

import glob
import hashlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from smf_jax.paths import INCOMPLETE, PathLike, as_path, copy, is_remote, is_whole, remove

_PARTIAL = ".partial"  # ends the name of what is not whole yet,
_REPLACED = ".replaced.partial"  # and of a directory whose successor is taking its place
_LONGEST = 24 * 3600  # seconds after which nobody is still writing, whatever the machine
_TRIES, _SETTLE_SECONDS = 20, 0.1  # to remove what a failed writer's threads still write to


def write_text(path: PathLike, text: str) -> None:
    """Writes a text file, in UTF-8, as `whole_file` does."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def whole_file(path: PathLike) -> Iterator[Path]:
    """A file to write, which takes its name when the block ends and is gone if it fails.

    Yields the path under which to write; after an OSError an older file is as it was.
    """
    path = as_path(path)
    if is_remote(path):
        with tempfile.TemporaryDirectory() as scratch:
            partial = Path(scratch, path.name)
            yield partial
            path.parent.mkdir(parents=True, exist_ok=True)
            copy(partial, path)
        return
    with _beside(path) as partial:
        yield partial
        partial.replace(path)


@contextmanager
def whole_directory(path: PathLike, overwrite: bool = False) -> Iterator[Path]:
    """A directory to fill, which takes its name when the block ends and is gone if it fails.

    Yields the path under which to write. With ``overwrite`` an older directory is replaced at the
    end. Of two processes that write one directory at a time, the first to end wins. What a killed
    process left beside ``path`` goes when the same machine writes it again.

    Raises:
      FileExistsError: ``path`` exists without ``overwrite``, or another process has made it since.
    """
    path = as_path(path)
    exists = FileExistsError(f"{path} exists; choose another directory or remove it")
    if is_remote(path):
        if is_whole(path) and not overwrite:
            raise exists
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            partial = Path(scratch, path.name)
            partial.mkdir()
            yield partial
            if is_whole(path) and not overwrite:
                raise exists
            _send(partial, path)
        return
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


def _send(source: Path, target: Path) -> None:
    """Sends a directory to an object store in the place of what is there.

    What replaces something is sent twice, so that at any moment one of the two is whole.
    """
    incoming, mark = target.with_name(f"{target.name}.incoming"), target / INCOMPLETE
    if is_whole(target):
        if incoming.exists():
            remove(incoming)
        copy(source, incoming)
    target.mkdir(parents=True, exist_ok=True)
    mark.write_text("")
    for each in target.iterdir():
        if each not in (target, mark):
            remove(each)
    copy(source, target)
    remove(mark)
    if incoming.exists():
        remove(incoming)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A name of this process beside ``path``, under which nothing is left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ours = f".{path.name}.{platform.node()}."
    partial = path.with_name(f"{ours}{os.getpid()}{_PARTIAL}")
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{_PARTIAL}"):
        if left != partial and _is_written(left, ours):
            continue
        if left.name.endswith(_REPLACED) and not path.exists():
            left.rename(path)  # its process was killed before the successor had the name
        _remove(left)
    try:
        yield partial
    finally:
        _remove(partial)


def _is_written(left: Path, ours: str) -> bool:
    """Whether somebody may still be writing: a process here that runs, or lately another machine's.

    What is no number of a process counts as running.
    """
    process, is_ours = left.name.removeprefix(ours).partition(".")[0], left.name.startswith(ours)
    with suppress(FileNotFoundError):
        if time.time() - left.stat().st_mtime > _LONGEST:
            return not is_ours and left.name.endswith(_REPLACED)  # may be what somebody replaced
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError):  # it belongs to somebody else
        pass
    return True


def _remove(path: Path) -> None:
    for _ in range(_TRIES):
        with suppress(OSError):
            return remove(path)
        time.sleep(_SETTLE_SECONDS)
