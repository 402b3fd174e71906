"""Paths: the one place where what a person names becomes a file, a directory or a URL of objects.

A path is local, or a URL such as ``gs://bucket/run`` that `etils.epath` opens. Object stores cannot
append, rename or lock, and most libraries write to disks only: what goes there is made on this
machine first and sent as whole files; what comes from there is fetched.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, cast

from etils import epath

PathLike = str | os.PathLike[str]

INCOMPLETE = ".incomplete"  # stands in a directory of an object store until all its files are there
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
_PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs", "hf": "huggingface_hub"}
# One letter is a drive; of two slashes `Path` leaves one, which behind other names tells a source.
_SCHEME = re.compile(rf"([A-Za-z][\w+.-]+)://+(?=\S)|({'|'.join(_PACKAGES)}):/(?=\S)")


def expand(text: str) -> str:
    """A path with ``~`` and environment variables put in, as a shell does.

    Raises:
      ValueError: a variable is not set, or there is no such user.
    """
    for named in _VARIABLE.finditer(text):
        if (name := named[1] or named[2]) not in os.environ:
            raise ValueError(f"{text}: the environment variable {name} is not set; set it")
    found = os.path.expanduser(os.path.expandvars(text))
    if found.startswith("~"):
        raise ValueError(f"{text}: no such user; write ./{text} for a file of that name")
    return found


def as_path(path: PathLike) -> Path:
    """The path that is named: a `Path`, or for a URL one of epath's, which has the same methods.

    Raises:
      ValueError: as `expand`, or a URL that cannot be opened here, with what is missing.
    """
    text = expand(os.fspath(path))
    scheme = _SCHEME.match(text)
    if scheme is None:
        return Path(text)
    name = scheme[1] or scheme[2]
    return _opened(name, f"{name}://{text[scheme.end() :]}")


@cache
def _opened(scheme: str, url: str) -> Path:
    """The path of a URL, once it is known that its store answers."""
    try:
        path = epath.Path(url)
    except KeyError:
        known = ", ".join(f"{each}://" for each in _PACKAGES)
        raise ValueError(f"{url}: expected a local path, or a URL of {known}; copy it") from None
    try:
        path.exists()
    except ImportError as error:
        package = _PACKAGES.get(scheme, scheme)
        raise ValueError(f"{url} needs a package: pip install {package} ({error})") from None
    except Exception as error:  # of as many types as there are stores
        raise ValueError(
            f"{url} cannot be reached ({error!r:.160}); check the name, the network and your "
            "credentials"
        ) from error
    return cast(Path, path)


def is_remote(path: PathLike) -> bool:
    """Whether a path is a URL."""
    return _SCHEME.match(os.fspath(path)) is not None


def resolved(path: PathLike) -> Path:
    """The absolute path without links; of a URL epath would make one below this directory."""
    found = as_path(path)
    return found if is_remote(found) else found.resolve()


def is_whole(path: Path) -> bool:
    """Whether something is there, and not a directory whose sending was interrupted."""
    return path.exists() and not (is_remote(path) and (path / INCOMPLETE).exists())


def copy(source: Path, target: Path, *but: str) -> None:
    """Copies a file, or a directory with all but some of its parts, from or to a store or not.

    Raises ValueError if the directory is incomplete, OSError if the store fails.
    """
    if not source.is_dir():
        try:
            with source.open("rb") as reader, target.open("wb") as writer:
                shutil.copyfileobj(cast(Any, reader), cast(Any, writer), 1 << 24)
        except OSError:
            raise
        except Exception as error:  # of as many types as there are stores
            raise OSError(f"{source} could not be copied to {target} ({error!r:.400})") from error
        return
    if not is_whole(source):
        raise ValueError(f"{source} is incomplete: sending it was interrupted; write it again")
    target.mkdir(parents=True, exist_ok=True)
    for each in source.iterdir():
        if each != source and each.name not in but:  # some stores list the directory itself
            copy(each, target / each.name)


def local(path: PathLike) -> Path:
    """The path itself, or a new copy of what a URL names, which goes when the process ends."""
    source = as_path(path)
    if not is_remote(source):
        return source
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or directory")
    target = Path(tempfile.mkdtemp(dir=_scratch().name), source.name)
    copy(source, target)
    return target


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="smf_jax-")


def create(path: Path, text: str) -> None:
    """Writes a file that is not there yet; FileExistsError if it is.

    An object store has no such operation: of two who write one at once, the last one's text stays,
    and the other reads so. Who may rely on it has to look again, as the beat of a lock does.
    """
    if not is_remote(path):
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        return
    if path.exists():
        raise FileExistsError(str(path))
    path.write_text(text)
    if path.read_text() != text:
        raise FileExistsError(str(path))


def remove(path: Path) -> None:
    """Removes a file or a directory with all that is in it, if it is there."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
    elif is_remote(path):
        cast(epath.Path, path).rmtree()
    else:
        shutil.rmtree(path)
