"""The files of a Hugging Face checkpoint: named tensors in one safetensors file or in several."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from smf_jax.interop.tensor_files import open_tensors, write_tensors

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


class Stored(NamedTuple):
    """One tensor as the header of its file announces it."""

    file: Path
    name: str
    shape: tuple[int, ...]
    kind: str

    def read(self) -> np.ndarray:
        """Its numbers."""
        with open_tensors(self.file) as opened:
            return opened.get_tensor(self.name)


def stored_tensors(directory: Path) -> dict[str, Stored]:
    """All tensors of a checkpoint by name, from the headers of its files.

    Raises:
      FileNotFoundError: a file of weights is not there.
      ValueError: a file, which may have been cut short, or the index is damaged.
    """
    index, files, expected = directory / INDEX, [WEIGHTS], f"{WEIGHTS} or {INDEX}"
    if index.exists():
        expected = f"every file that {INDEX} names"
        try:
            files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{index} is no index of weights ({error}); copy it again") from error
    if absent := [file for file in files if not (directory / file).exists()]:
        raise FileNotFoundError(
            f"{directory} lacks {', '.join(absent)}; expected {expected}; copy the missing files, "
            "or save the model as safetensors"
        )
    stored = {}
    for file in (directory / name for name in files):
        with open_tensors(file) as opened:
            for name in opened.keys():  # noqa: SIM118, not a dictionary
                part = opened.get_slice(name)
                stored[name] = Stored(file, name, tuple(part.get_shape()), part.get_dtype())
    return stored


def write_sharded(
    directory: Path,
    tensors: Mapping[str, Any],
    read: Callable[[str], np.ndarray],
    shard_bytes: int,
) -> None:
    """Writes tensors into one file, or beyond ``shard_bytes`` into several and their index.

    ``tensors`` are anything with ``shape`` and ``dtype``; ``read`` gives that of a name. What one
    file holds is in memory at a time.
    """
    shards: list[dict[str, int]] = [{}]  # bytes by name
    for name, tensor in tensors.items():
        size = int(np.prod(tensor.shape, dtype=np.int64)) * np.dtype(tensor.dtype).itemsize
        if shards[-1] and sum(shards[-1].values()) + size > shard_bytes:
            shards.append({})
        shards[-1][name] = size
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        several = f"model-{number:05}-of-{len(shards):05}.safetensors"
        file = several if len(shards) > 1 else WEIGHTS
        write_tensors(directory / file, {name: read(name) for name in names})
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(sum(shard.values()) for shard in shards)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")
