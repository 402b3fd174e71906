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

from smf_jax.checkpoints.manifest import fingerprint
from smf_jax.checkpoints.sealed_json import seal, unseal
from smf_jax.interop.tensor_files import is_kernel, read_tensors, transposed, write_tensors
from smf_jax.params import memory_part
from smf_jax.paths import PathLike, as_path, local
from smf_jax.sparse.patch import Patch
from smf_jax.typed_json import parse_json

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


def save_patch(file: PathLike, patch: Patch) -> None:
    """Writes a patch as one safetensors file: arrays as tensors, the rest as JSON in its header."""
    arrays, about = patch.to_arrays()
    tensors = {_patch_name(path): np.asarray(array, order="C") for path, array in arrays.items()}
    told = seal({**about, "paths": sorted(arrays), "arrays": fingerprint(arrays)})
    write_tensors(as_path(file), tensors, **{_ABOUT: json.dumps(told)})


def load_patch(file: PathLike) -> Patch:
    """Reads what `save_patch` wrote; a ValueError tells of damage, or of another format."""
    arrays, header = read_tensors(local(file))
    if _ABOUT not in header:
        raise ValueError(f"{file} is no patch of smf_jax: no {_ABOUT} in its header; copy it again")
    about = parse_json(header[_ABOUT], str(file))
    paths = about.many("paths", str)
    try:
        found = {path: arrays[_patch_name(path)] for path in paths}
    except (KeyError, ValueError) as error:
        raise about.error(f"paths: no patch of smf_jax ({error}); copy it again") from error
    patch = Patch.from_arrays(found, about.values, str(file))
    unseal(header[_ABOUT], f"{file}: {_ABOUT}")
    if about.get("arrays", str) not in (None, fingerprint(found)):  # earlier versions told none
        raise ValueError(f"{file}: its arrays are not those that were saved; copy the file again")
    return patch


def save_memory(file: Path, params: Mapping[str, Any]) -> None:
    """Writes the memory's leaves, by path, as one safetensors file."""
    tensors = {memory_name(path): transposed(path, leaf) for path, leaf in params.items()}
    if len(tensors) < len(params):
        raise ValueError(f"leaves {sorted(params)} do not all have names of their own in a file")
    write_tensors(file, tensors)


def load_memory(file: Path, paths: list[str]) -> dict[str, np.ndarray]:
    """Reads leaves that `save_memory` wrote; a ValueError tells of damage, or of other leaves."""
    tensors, _ = read_tensors(file)
    names = {memory_name(path): path for path in paths}
    if names.keys() != tensors.keys():
        raise ValueError(
            f"{file}: tensors missing {sorted(names.keys() - tensors.keys())}, not expected "
            f"{sorted(tensors.keys() - names.keys())}; copy the directory again"
        )
    return {path: transposed(path, tensors[name]) for name, path in names.items()}


def _patch_name(path: str) -> str:
    """Of an array of a patch: a leaf's name, and what of it the array holds."""
    leaf, _, part = path.rpartition("/")
    return f"{memory_name(leaf)}.{part}"
