"""A model with memories as a directory that others can read: base + memory + patches + card.

Where a memory stands in for a feed-forward (``replace``, ``pretrain``), the base holds zeros in its
place, so that "feed-forward plus memory" reads every kind of model.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smf_jax.checkpoints.files import require_files, sha256_of_file, whole_directory
from smf_jax.checkpoints.manifest import Manifest, describe, fingerprint, to_host
from smf_jax.interop.export.card import CardFacts, has_pytorch_reader, model_card
from smf_jax.interop.export.patches import load_memory, load_patch, save_memory, save_patch
from smf_jax.interop.huggingface.checkpoint import (
    SHARD_BYTES,
    check_params,
    load_huggingface,
    write_huggingface,
)
from smf_jax.interop.huggingface.config import config_values
from smf_jax.interop.huggingface.tokenizer import save_tokenizer
from smf_jax.models.config import ComputeType, ModelConfig
from smf_jax.models.decoder import abstract_params
from smf_jax.params import Params, flatten, is_memory, split
from smf_jax.paths import PathLike, as_path, local
from smf_jax.sparse.patch import Patch, apply_patch
from smf_jax.tables import explicit, implicit, is_implicit, on_host, packed
from smf_jax.typed_json import read_json

FORMAT = 1
WHOLE_BYTES = 8 * 2**30  # of a table, all of its rows written out
MANIFEST, MEMORY_FILE = "smf_jax.json", "memory.safetensors"
READER = Path(__file__).with_name("pytorch_memory.py")


class Exported(NamedTuple):
    """A model read from its directory."""

    config: ModelConfig
    params: Params  # by path, with the patches applied
    patches: tuple[Patch, ...]  # those that were applied, in order


def export_model(
    directory: PathLike,
    config: ModelConfig,
    params: Mapping[str, Any],
    patches: Sequence[Patch] = (),
    *,
    facts: CardFacts | None = None,
    tokenizer: Any = None,
    companions: PathLike | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a directory that `load_exported` reads bit for bit, and ``transformers`` its base.

    ``docs/serving.md`` lists its files, which appear all or none. ``params`` are by path and before
    any of the ``patches``, which are in order. Without ``facts`` there is no model card.
    ``tokenizer`` is saved beside the weights, or that of a directory ``companions``, of which the
    generation settings are taken too. A base beyond ``shard_bytes`` is spread over several files.

    Raises:
      FileExistsError: ``directory`` exists.
      ValueError: leaves do not fit the model, patches the leaves, or the family has no such base.
    """
    params = flatten(params)
    config_values(config.with_memory(None))  # refuses what the family cannot express
    if patches and config.memory is None:
        raise ValueError(
            f"patches={[patch.task for patch in patches]} belong to a memory, and the model has "
            "none (config.memory=None); export it without patches"
        )
    with whole_directory(directory) as partial:
        check_params(config, params)
        host = {path: on_host(leaf) for path, leaf in params.items()}
        memory, _ = split(host, is_memory)
        leaves, patched = describe(to_host(packed(host))), memory
        base = Manifest(leaves, {}).fingerprint
        for patch in patches:  # which tells whether they fit the base and each other
            patched = apply_patch(patched, patch, base=base)
        _write_base(partial, config, host, shard_bytes)
        if config.memory is not None:
            save_memory(partial / MEMORY_FILE, _whole_tables(memory))
            if has_pytorch_reader(config):
                shutil.copyfile(READER, partial / READER.name)
        names = [save_numbered(partial, *each) for each in enumerate(patches)]
        if facts is not None:
            text = model_card(config, params, patches, facts)
            (partial / "README.md").write_text(text, encoding="utf-8")
        save_tokenizer(partial, config, tokenizer, companions)
        plain = [file for ending in ("json", "jinja") for file in partial.glob(f"*.{ending}")]
        files = {file.name: sha256_of_file(file) for file in sorted(plain)}
        about = {"kind": "exported", "version": FORMAT, "model": config.to_dict(), "patches": names}
        manifest = Manifest(leaves, {**about, "files": files}).to_json()
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def is_exported(directory: PathLike) -> bool:
    """Whether `export_model` wrote this directory."""
    return (as_path(directory) / MANIFEST).is_file()


def load_exported(
    directory: PathLike, dtype: ComputeType | None = None, patches: int | None = None
) -> Exported:
    """Reads a model that `export_model` wrote, every leaf checked against its digest.

    ``dtype`` is that of the computation, if another; leaves keep theirs. The first ``patches``
    patches are applied; all if not given.

    Raises:
      FileNotFoundError: the directory or a file of it is not there.
      ValueError: not written by `export_model`, or damaged; all leaves that differ are named.
    """
    directory = local(directory)
    manifest = read_manifest(directory)
    require_files(directory, manifest.metadata.get("files", {}))
    about = manifest.metadata["model"]
    config = ModelConfig.from_dict(about if dtype is None else {**about, "dtype": dtype})
    _, tree = load_huggingface(directory, config.dtype, "stored")
    params = {path: leaf for path, leaf in flatten(tree).items() if path in manifest.leaves}
    if config.memory is not None:
        shapes = split(flatten(abstract_params(config)), is_memory)[0]
        memory = load_memory(directory / MEMORY_FILE, list(shapes))
        for path, leaf in memory.items():
            own = implicit(leaf) if is_implicit(shapes[path]) else leaf
            params[path] = jax.tree.map(jnp.asarray, own)
    found = describe(to_host(packed(params)))
    if wrong := [path for path, leaf in manifest.leaves.items() if found.get(path) != leaf]:
        raise ValueError(
            f"{directory}: {len(wrong)} leaves are not those that were exported: "
            f"{', '.join(wrong[:8])}{', …' if len(wrong) > 8 else ''}; copy the directory again"
        )
    applied = _load_patches(directory, manifest.metadata["patches"], patches)
    params = flatten(params)
    for patch in applied:
        params = apply_patch(params, patch, base=manifest.fingerprint)
    return Exported(config, params, tuple(applied))


def _write_base(
    directory: Path, config: ModelConfig, params: Mapping[str, np.ndarray], shard_bytes: int
) -> None:
    """Writes the model without its memories; feed-forwards that they stand in for are zeros."""
    plain, dtype = config.with_memory(None), params["embedder/embedding"].dtype
    base = {
        path: params.get(path, np.broadcast_to(np.zeros((), dtype), leaf.shape))
        for path, leaf in flatten(abstract_params(plain)).items()
    }
    write_huggingface(directory, plain, base, base.__getitem__, shard_bytes)


def _whole_tables(memory: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The memory's leaves, tables that hold written rows only with all of their rows.

    Other people's readers know no others; `load_exported` makes them what they were.
    """
    for path, leaf in memory.items():
        size = leaf.shape[0] * leaf.shape[1] * leaf.dtype.itemsize if is_implicit(leaf) else 0
        if size > WHOLE_BYTES:
            raise ValueError(
                f"{path} takes {size / 2**30:,.0f} GiB with all of its {len(leaf):,} rows, which "
                f"an export writes up to {WHOLE_BYTES / 2**30:.0f} GiB; give the run's base and "
                "its patches as they are, or retrofit with a smaller --keys_per_half"
            )
    return {path: explicit(leaf) for path, leaf in memory.items()}


def save_numbered(directory: Path, number: int, patch: Patch) -> dict[str, str]:
    """Writes a patch of the directory, replacing no file; returns its name, task and digest."""
    task = re.sub(r"[^A-Za-z0-9]+", "_", patch.task).strip("_")[:40]
    name = f"patches/{number:02d}_{task or 'task'}"
    if (directory / f"{name}.safetensors").exists():
        name += f"_{patch.fingerprint[:12]}"
    save_patch(directory / f"{name}.safetensors", patch)
    digest = fingerprint(patch.to_arrays()[0])
    return {"file": f"{name}.safetensors", "task": patch.task, "digest": digest}


def _load_patches(
    directory: Path, names: Sequence[Mapping[str, str]], count: int | None
) -> list[Patch]:
    """Reads so many of the patches, or all."""
    if count is not None and not 0 <= count <= len(names):
        raise ValueError(f"patches={count}: {directory} holds {len(names)}; choose 0 to that")
    patches = []
    for entry in names[:count]:
        file = directory / entry["file"]
        patches.append(load_patch(file))
        if fingerprint(patches[-1].to_arrays()[0]) != entry["digest"]:
            raise ValueError(f"{file}: its arrays are not those exported; copy the file again")
    return patches


def read_manifest(directory: Path) -> Manifest:
    """What is told of an exported model; raises as `load_exported` where it is none."""
    file = directory / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} does not exist; give a directory that export_model wrote, or load_huggingface"
        )
    try:
        manifest = Manifest.from_json(read_json(file).values)
        kind, version = (manifest.metadata.get(key) for key in ("kind", "version"))
        if (kind, version) != ("exported", FORMAT):
            raise ValueError(f"{kind=}, {version=}: load it with the smf_jax that wrote it")
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return manifest
