"""The files of a Hugging Face checkpoint: named tensors in one safetensors file or in several."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
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


def stored_tensors(directory: Path) -> dict[str, Stored]:
    """All tensors of a checkpoint by name, from the headers of its files.

    Raises:
      FileNotFoundError: a file of weights is not there.
      ValueError: a file, which may have been cut short, or the index is damaged.
    """
    stored = {}
    for file in _weight_files(directory):
        with open_tensors(file) as opened:
            for name in opened.keys():  # noqa: SIM118, not a dictionary
                part = opened.get_slice(name)
                stored[name] = Stored(file, name, tuple(part.get_shape()), part.get_dtype())
    return stored


def read_stored(wanted: Mapping[str, Stored]) -> Iterator[tuple[str, np.ndarray]]:
    """Reads tensors one at a time, file by file.

    Args:
      wanted: from the name that a tensor is given back under to where it lies.
    """
    by_file: dict[Path, list[str]] = {}
    for name, stored in wanted.items():
        by_file.setdefault(stored.file, []).append(name)
    for file, names in by_file.items():
        with open_tensors(file) as opened:
            for name in names:
                yield name, opened.get_tensor(wanted[name].name)


def write_sharded(
    directory: Path,
    tensors: Mapping[str, Any],
    read: Callable[[str], np.ndarray],
    shard_bytes: int,
) -> None:
    """Writes tensors into one file, or into several and their index; one file is held at a time.

    Args:
      directory: an existing one.
      tensors: by name, anything with ``shape`` and ``dtype``.
      read: gives the tensor of a name.
      shard_bytes: weights beyond this many bytes are spread over several files.
    """
    shards, sizes = [[]], [0]
    for name, tensor in tensors.items():
        size = int(np.prod(tensor.shape, dtype=np.int64)) * np.dtype(tensor.dtype).itemsize
        if shards[-1] and sizes[-1] + size > shard_bytes:
            shards.append([])
            sizes.append(0)
        shards[-1].append(name)
        sizes[-1] += size
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        whole = len(shards) == 1
        file = WEIGHTS if whole else f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_tensors(directory / file, {name: read(name) for name in names})
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _weight_files(directory: Path) -> list[Path]:
    """The files that hold the weights, each of which exists."""
    index = directory / INDEX
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{index} is no index of weights ({error}); copy it again") from error
    else:
        names = [WEIGHTS]
    files = [directory / name for name in names]
    absent = [file.name for file in files if not file.exists()]
    if absent:
        raise FileNotFoundError(
            f"{directory} lacks {', '.join(absent)}; expected "
            + (f"every file that {INDEX} names" if index.exists() else f"{WEIGHTS} or {INDEX}")
            + "; copy the missing files, or save the model as safetensors"
        )
    return files
