"""A GGUF file: its metadata by key, its tensors by name, read through the ``gguf`` package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from smf_jax.typed_json import JsonObject

MAGIC = b"GGUF"
_CHUNK = 2**22  # numbers that are dequantised at a time


@dataclass(frozen=True)
class GgufTensor:
    """One tensor as the header announces it; its data stay in the file until they are read."""

    name: str
    shape: tuple[int, ...]  # as PyTorch has it: the last axis is the one that lies together
    kind: Any  # a ``gguf.GGMLQuantizationType``
    data: np.ndarray  # mapped from the file, quantised rows as bytes

    def read(self, dtype: str) -> np.ndarray:
        """The numbers, in a new array of ``dtype``: dequantised a few rows at a time.

        A ValueError names the tensor if ``gguf`` cannot dequantise its type.
        """
        made = np.empty(self.shape, jnp.dtype(dtype))
        if made.ndim < 2:
            made[...] = self._dequantised(self.data)
            return made
        step = max(1, _CHUNK // made[0].size)
        for start in range(0, len(made), step):
            made[start : start + step] = self._dequantised(self.data[start : start + step])
        return made

    def rows(self, first: int, end: int) -> np.ndarray:
        """Some rows of a matrix as float32; a ValueError as `read`."""
        return self._dequantised(self.data[first:end])

    def problem(self) -> str:
        """What keeps the tensor from being read, found on its first row; empty if nothing does."""
        try:
            self._dequantised(self.data if self.data.ndim < 2 else self.data[:1])
        except ValueError as error:
            return str(error)
        return ""

    def _dequantised(self, rows: np.ndarray) -> np.ndarray:
        from gguf import dequantize

        try:
            return dequantize(rows, self.kind)
        except NotImplementedError as error:
            raise ValueError(
                f"type: {self.name} is {self.kind.name}, which the gguf package cannot dequantise"
            ) from error


@dataclass(frozen=True)
class GgufFile:
    """What a GGUF file holds."""

    path: Path
    values: Mapping[str, Any]  # metadata by key
    tensors: Mapping[str, GgufTensor]

    @property
    def told(self) -> JsonObject:
        """All metadata."""
        return JsonObject(self.values, str(self.path))

    def section(self, prefix: str) -> JsonObject:
        """The metadata whose keys begin with ``prefix``, by what follows it."""
        found = {k.removeprefix(prefix): v for k, v in self.values.items() if k.startswith(prefix)}
        return JsonObject(found, str(self.path), prefix)


def open_gguf(path: Path) -> GgufFile:
    """Opens a GGUF file on this machine: reads its metadata, maps its tensors.

    Raises:
      ValueError: it is no GGUF file, damaged, one of several parts or of the other byte order; or
        the ``gguf`` package is not installed.
    """
    with path.open("rb") as opened:
        begins = opened.read(len(MAGIC))
    if begins != MAGIC:
        raise ValueError(f"{path} is no GGUF file: it begins with {begins!r}; give one of a model")
    reader_class = _reader_class()
    try:
        reader = reader_class(path)
        values = {key: field.contents() for key, field in reader.fields.items()}
        tensors = [
            GgufTensor(each.name, tuple(each.shape.tolist()[::-1]), each.tensor_type, each.data)
            for each in reader.tensors
        ]
    except Exception as error:  # whatever NumPy and enums raise for bytes that make no sense
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is truncated or damaged, or of a newer format "
            f"than the gguf package knows: {error}; copy the file again, or update gguf"
        ) from error
    found = GgufFile(path, values, {each.name: each for each in tensors})
    if reader.byte_order != "I":
        raise found.told.error("is of the other byte order than this machine; convert it again")
    parts = found.told.get("split.count", int) or 1
    found.told.require(parts == 1, "split.count", "one file: join the parts by gguf-split --merge")
    return found


@cache
def _reader_class() -> type[Any]:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ValueError(
            "a GGUF file needs the gguf package, which is not installed: "
            f"pip install 'smf_jax[gguf]' ({error})"
        ) from error

    class Reader(GGUFReader):
        """Ends with the file, where the other takes nothing for a number and goes on."""

        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            if offset + int(count) * np.dtype(dtype).itemsize > len(self.data):
                raise EOFError(f"it ends before {int(count)} numbers at byte {offset}")
            return super()._get(offset, dtype, count, override_order)

    return Reader
