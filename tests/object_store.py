"""Objects in memory under ``gs://``: as in truth without directories, appending and renaming."""

from __future__ import annotations

import fnmatch
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from etils import epath
from etils.epath import gpath
from etils.epath.backend import Backend
from etils.epath.stat_utils import StatResult


class ObjectStore(Backend):
    """Objects by URL."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.fails_at: int | None = None  # the write, from now, at which the network is gone

    @contextmanager
    def open(self, path, mode) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        name, text = os.fspath(path), "b" not in mode
        if "r" in mode:
            if name not in self.objects:
                raise FileNotFoundError(name)
            found = io.BytesIO(self.objects[name])
            yield io.TextIOWrapper(found, "utf-8") if text else found
            return
        if "a" in mode:
            raise NotImplementedError("objects are not appended to")
        if self.fails_at is not None:
            self.fails_at -= 1
            if self.fails_at < 0:
                raise ConnectionError("the network is gone")
        written: Any = io.StringIO() if text else io.BytesIO()
        yield written
        self.objects[name] = written.getvalue().encode() if text else written.getvalue()

    def below(self, path) -> list[str]:
        return sorted(each for each in self.objects if each.startswith(f"{os.fspath(path)}/"))

    def exists(self, path) -> bool:
        return os.fspath(path) in self.objects or self.isdir(path)

    def isdir(self, path) -> bool:
        return bool(self.below(path))

    def listdir(self, path) -> list[str]:
        prefix = len(os.fspath(path)) + 1
        return list(dict.fromkeys(each[prefix:].split("/")[0] for each in self.below(path)))

    def glob(self, path) -> list[str]:
        parts = os.fspath(path).split("/")
        names = {"/".join(each.split("/")[: len(parts)]) for each in self.objects}
        return sorted(
            name
            for name in names
            if len(name.split("/")) == len(parts)
            and all(map(fnmatch.fnmatchcase, name.split("/"), parts))
        )

    def walk(self, top, *, top_down=True, on_error=None):
        raise NotImplementedError

    def makedirs(self, path, *, exist_ok=False, mode=None) -> None:
        pass

    def mkdir(self, path, *, exist_ok=False, mode=None) -> None:
        pass

    def rmtree(self, path) -> None:
        for each in self.below(path):
            del self.objects[each]

    def remove(self, path) -> None:
        if self.objects.pop(os.fspath(path), None) is None:
            raise FileNotFoundError(path)

    def rename(self, path, dst) -> None:
        raise NotImplementedError("objects are not renamed")

    def replace(self, path, dst) -> None:
        raise NotImplementedError("objects are not renamed")

    def copy(self, path, dst, overwrite) -> None:
        raise NotImplementedError

    def stat(self, path) -> StatResult:
        return StatResult(False, len(self.objects[os.fspath(path)]), 0, None, None, None)


@pytest.fixture
def store(monkeypatch, tmp_path) -> Iterator[ObjectStore]:
    """What stands under ``gs://``; no folder of that name may come to be."""
    made = ObjectStore()
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", made)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.chdir(tmp_path)
    yield made
    assert not any(path.name.startswith("gs") for path in tmp_path.rglob("*"))


def put(local_directory, url: str) -> None:
    """Copies a directory into the store."""
    for path in sorted(local_directory.rglob("*")):
        if path.is_file():
            (epath.Path(url) / path.relative_to(local_directory)).write_bytes(path.read_bytes())
