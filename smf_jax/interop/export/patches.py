"""Memories and patches as safetensors, under names that read well outside of this package.

``memory/layer_6/query/kernel`` becomes ``layers.6.query.weight``, turned to (out, in) as PyTorch
has it; ``memory/pool_6/values`` becomes ``pools.6.values``. A patch adds ``.slots``, ``.old`` and
``.new`` to the name of a table, ``.old`` and ``.new`` to that of a scalar.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from smf_jax.params import memory_part
from smf_jax.sparse.patch import Patch

_ABOUT = "smf_jax"  # the key of a file's header that holds what is no array


def memory_name(path: str) -> str:
    """The name in a file of the memory's leaf at ``path``."""
    part = memory_part(path)
    if part is None or "." in path:
        raise ValueError(
            f"{path} is no leaf of a memory; expected memory/layer_N/… or memory/pool_N/values"
        )
    leaf = f"{part.leaf.removesuffix('kernel')}weight" if is_kernel(path) else part.leaf
    return f"{part.kind}s.{part.number}.{leaf.replace('/', '.')}"


def is_kernel(path: str) -> bool:
    """Whether the leaf is a matrix (in, out), which files hold as (out, in)."""
    return path.endswith("/kernel")


def save_patch(file: Path | str, patch: Patch) -> None:
    """Writes a patch as one safetensors file, which `load_patch` reads bit for bit.

    Args:
      file: to write.
      patch: arrays go in as tensors, everything else as JSON into the file's header.
    """
    arrays, about = patch.to_arrays()
    tensors = {_patch_name(path): np.asarray(array, order="C") for path, array in arrays.items()}
    header = {"format": "pt", _ABOUT: json.dumps({**about, "paths": sorted(arrays)})}
    save_file(tensors, file, metadata=header)
    Path(file).chmod(0o644)  # made for its owner alone


def load_patch(file: Path | str) -> Patch:
    """Reads what `save_patch` wrote.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file is damaged, or holds no patch of this format.
    """
    arrays, header = read_safetensors(Path(file))
    try:
        about = json.loads(header[_ABOUT])
        found = {path: arrays[_patch_name(path)] for path in about["paths"]}
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{file} is no patch of smf_jax ({error!r}); copy it again") from error
    try:
        return Patch.from_arrays(found, about)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def save_memory(file: Path, params: Mapping[str, Any]) -> None:
    """Writes the memory's leaves, by path, as one safetensors file."""
    tensors: dict[str, np.ndarray] = {}
    for path, leaf in params.items():
        host = np.asarray(leaf)
        tensors[memory_name(path)] = np.asarray(host.T if is_kernel(path) else host, order="C")
    if len(tensors) < len(params):
        raise ValueError(f"leaves {sorted(params)} do not all have names of their own in a file")
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(0o644)


def load_memory(file: Path, paths: list[str]) -> dict[str, np.ndarray]:
    """Reads leaves that `save_memory` wrote.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file is damaged, or a leaf is not in it.
    """
    tensors, _ = read_safetensors(file)
    names = {path: memory_name(path) for path in paths}
    absent = sorted(set(names.values()) - set(tensors))
    unknown = sorted(set(tensors) - set(names.values()))
    if absent or unknown:
        raise ValueError(
            f"{file}: tensors missing {absent}, not expected {unknown}; copy the directory again"
        )
    return {
        path: np.asarray(tensors[name].T, order="C") if is_kernel(path) else tensors[name]
        for path, name in names.items()
    }


def read_safetensors(file: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors of a file and its header's text.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a damaged one.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; copy the whole directory again")
    try:
        with safe_open(file, "numpy") as opened:
            names = list(opened.keys())
            return {name: opened.get_tensor(name) for name in names}, opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        size = file.stat().st_size
        raise ValueError(
            f"{file} ({size} bytes) is truncated or damaged: {error}; copy the file again"
        ) from error


def _patch_name(path: str) -> str:
    """Of an array of a patch: a leaf's name, and what of it the array holds."""
    leaf, _, part = path.rpartition("/")
    return f"{memory_name(leaf)}.{part}"
