"""Bases: the models before the stream; their directories on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from smf_jax import checkpoints
from smf_jax.checkpoints.files import require_files, sha256_of_file, whole_directory
from smf_jax.checkpoints.manifest import fingerprint, sha256_of_json
from smf_jax.data.tokenizer import Tokenizer, load_tokenizer
from smf_jax.errors import blame_flag, require_writable
from smf_jax.interop.export.model import is_exported, load_exported
from smf_jax.interop.gguf.model import load_gguf
from smf_jax.interop.gguf.package import locate_base
from smf_jax.interop.huggingface.checkpoint import load_huggingface
from smf_jax.mesh import DATA, device_mesh
from smf_jax.models.config import ModelConfig, Precision
from smf_jax.models.decoder import Decoder, abstract_params
from smf_jax.models.quantised import is_matrix, quantise_params
from smf_jax.params import Params, count_parameters, flatten, is_memory, is_quantised
from smf_jax.paths import PathLike, as_path, is_whole, local
from smf_jax.tables import packed, packed_like, unpacked

FORMAT = 1
PARAMS = "leaves"
DTYPES = ("float32", "bfloat16")
_KEPT = (*DTYPES, "float16")  # what leaves are saved in
_TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Base:
    """A model before the stream."""

    config: ModelConfig  # of the decoder
    params: Params  # by path; shapes only in an outline, see `abstract_params_of`
    tokenizer: Tokenizer  # of the model
    origin: str  # where it came from, for people
    # How a built-in base was made (`PretrainConfig.recipe`); ``None`` for others.
    recipe: dict[str, Any] | None = None

    @property
    def model(self) -> Decoder:
        """The decoder of the base."""
        return Decoder(self.config)

    @property
    def is_abstract(self) -> bool:
        """Whether the leaves are shapes only, of a base that is yet to be made."""
        return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in self.params.values())

    def cast(self, dtype: str | None) -> Base:
        """The base computing in another dtype, its leaves in it too; itself for ``None``.

        Memories keep their leaves: a step of SGD on a row would be lost in bfloat16. So do
        quantised matrices.
        """
        if dtype is None:
            return self

        def of(path: str, leaf: Any) -> Any:
            if is_memory(path) or is_quantised(path):
                return leaf
            kind = jnp.dtype(dtype)
            return jax.ShapeDtypeStruct(leaf.shape, kind) if self.is_abstract else leaf.astype(kind)

        params = {path: of(path, leaf) for path, leaf in self.params.items()}
        return replace(self, config=replace(self.config, dtype=dtype), params=params)

    def quantised(self, precision: Precision | None) -> Base:
        """The base with its matrices held in few bits; itself for ``None``, or if they are so.

        ValueError if they are held in others: what was rounded once is not rounded anew.
        """
        if precision in (None, self.config.precision):
            return self
        self.require_float(precision)
        config = replace(self.config, precision=precision)
        abstract = self.is_abstract
        params = abstract_params_of(config) if abstract else quantise_params(precision, self.params)
        return replace(self, config=config, params=params)

    def require_float(self, precision: Precision | None) -> None:
        """Refuses, by a ValueError, to round to ``precision`` what is held in few bits already."""
        if self.config.precision is not None:
            raise ValueError(
                f"--base_precision={precision}: the base is held in {self.config.precision} "
                "already; give the model that it was made from"
            )

    def size(self) -> str:
        """How many parameters, of which dtypes, and that of the computation, for people."""
        held = {path: leaf for path, leaf in self.params.items() if not is_quantised(path)}
        kinds = " and ".join(sorted({leaf.dtype.name for leaf in held.values()}))
        if self.config.precision is not None:
            kinds = f"{self.config.precision} and {kinds}"
        return f"{self.parameters():,} parameters in {kinds}, computing in {self.config.dtype}"

    def parameters(self) -> int:
        """How many, of a quantised matrix the numbers that it stands for."""
        if self.config.precision is None:
            return count_parameters(self.params)
        held = [leaf for path, leaf in self.params.items() if not is_quantised(path)]
        matrices = filter(is_matrix, shapes := abstract_params_of(self.config.in_float))
        return count_parameters([held, [shapes[path] for path in matrices]])

    def fingerprint(self) -> str:
        """Of all leaves."""
        return fingerprint(packed(jax.device_get(self.params)))

    def tokenizer_fingerprint(self) -> str:
        """Of the tokenizer."""
        return sha256_of_json({"tokenizer": self.tokenizer.backend.to_str()})


def abstract_params_of(config: ModelConfig) -> Params:
    """Shapes of a model's leaves by path: what checks need before anything is computed."""
    return flatten(abstract_params(config))


def data_mesh(rows: int) -> Mesh:
    """A mesh of as many local devices as divide a batch of so many rows."""
    devices = jax.local_devices()
    count = next(count for count in range(len(devices), 0, -1) if rows % count == 0)
    return device_mesh(DATA, devices[:count])


def check_output(path: str, flag: str, overwrite: bool) -> Path:
    """Refuses an output directory that exists.

    Raises:
      ValueError: if no directory is named.
      FileExistsError: if it exists and may not be replaced, or is no base.
    """
    if not path:
        raise ValueError(f"--{flag} is empty; name the directory to make")
    require_writable(path, flag)
    target = as_path(path)
    if not is_whole(target):
        return target
    if not overwrite:
        raise FileExistsError(
            f"--{flag}={path} exists; choose another directory or give --overwrite"
        )
    is_base = (target / PARAMS).is_dir() and (target / _TOKENIZER).is_file()
    if not target.is_dir() or (any(target.iterdir()) and not is_base):
        raise FileExistsError(
            f"--{flag}={path} exists and is no base, so --overwrite does not replace it; choose "
            "another directory or remove it yourself"
        )
    return target


def save_base(
    path: PathLike, base: Base, overwrite: bool = False, inputs: Mapping[str, Any] | None = None
) -> str:
    """Writes a base and returns its fingerprint; the directory appears whole or not at all.

    Of two processes that write the same one, the first wins; FileExistsError if it is another.
    ``inputs``, what it was made from, are recorded with it.
    """
    metadata = {
        "kind": "base",
        "base_format": FORMAT,
        "model": base.config.to_dict(),
        "origin": base.origin,
        "recipe": base.recipe,
        "inputs": dict(inputs or {}),
    }
    base_fingerprint = base.fingerprint()
    try:
        with whole_directory(path, overwrite) as partial:
            # Backgrounds know the tokenizer by its fingerprint.
            base.tokenizer.save(partial, framed=False)
            files = {file.name: sha256_of_file(file) for file in sorted(partial.iterdir())}
            checkpoints.save(partial / PARAMS, packed(base.params), {**metadata, "files": files})
    except FileExistsError:
        there = as_path(path) / PARAMS
        if not there.is_dir() or checkpoints.read_manifest(there).fingerprint != base_fingerprint:
            raise
    return base_fingerprint


def load_base(
    path: str,
    flag: str = "base",
    dtype: str | None = None,
    precision: Precision | None = None,
) -> Base:
    """Reads a base that `save_base` wrote, an exported model, a Hugging Face directory or a GGUF.

    It is cast to ``dtype`` as by `Base.cast`. Without one a base or an exported model is what it
    was saved as, and what others made float32, whatever its file holds. ``package:NAME`` is the
    GGUF file in an installed package, see `locate_base`. Matrices are held in few bits where a
    ``precision`` is given (`smf_jax.models.quantised`), rounded from what was saved, whatever
    ``dtype`` the others are in.

    Raises:
      FileNotFoundError: if it is not there, or is none of these.
      ValueError: if it is damaged, incomplete, or its parts do not fit each other.
    """
    if dtype not in (None, *DTYPES):
        raise ValueError(f"--dtype={dtype} is unknown; choose from {', '.join(DTYPES)}")
    with blame_flag(f"--{flag}="):
        directory = locate_base(path)
    if path and directory.is_file():
        with blame_flag(f"--{flag}={path}: "):
            kind: Any = dtype or DTYPES[0]
            found = load_gguf(directory, kind, precision)
        params = flatten(found.params)
        return Base(found.config, params, found.tokenizer, f"GGUF file {directory.name}")
    if not path or not directory.is_dir():
        raise FileNotFoundError(
            f"--{flag}={path}: no such directory; give that of a base or of a Hugging Face "
            "checkpoint, or a GGUF file"
        )
    if (directory / "base" / PARAMS).is_dir():
        raise ValueError(
            f"--{flag}={path} is a run of a sweep; give its base, {directory / 'base'}"
        )
    with blame_flag(f"--{flag}="):
        directory = local(directory)
    if (directory / PARAMS).is_dir():
        with blame_flag(f"--{flag}={path}: "):
            return _load_saved(directory).quantised(precision).cast(dtype)
    if is_exported(directory):
        with blame_flag(f"--{flag}={path}: "):
            config, params, _ = load_exported(directory)
            tokenizer = load_tokenizer(directory, config.vocabulary)
        base = Base(config, params, tokenizer, f"exported model {directory.name}")
        return base.quantised(precision).cast(dtype)
    if not (directory / "config.json").is_file():
        raise FileNotFoundError(
            f"--{flag}={path} is neither a base ({PARAMS}/ is missing) nor a Hugging Face "
            "checkpoint (config.json is missing)"
        )
    with blame_flag(f"--{flag}={path}: "):
        kind: Any = dtype or DTYPES[0]
        config, tree = load_huggingface(directory, kind, precision=precision)
        tokenizer = load_tokenizer(directory, config.vocabulary)
    return Base(config, flatten(tree), tokenizer, f"Hugging Face checkpoint {directory.name}")


def _load_saved(directory: Path) -> Base:
    manifest = checkpoints.read_manifest(directory / PARAMS)
    metadata = manifest.metadata
    if metadata.get("base_format") != FORMAT:
        raise ValueError(
            f"base_format={metadata.get('base_format')!r}, expected {FORMAT}; make the base again "
            "with this version"
        )
    require_files(directory, metadata.get("files", {}))
    config = ModelConfig.from_dict(metadata["model"])
    # A leaf keeps the dtype that it was saved in.
    kept = {path: leaf.dtype for path, leaf in manifest.leaves.items() if leaf.dtype in _KEPT}
    expected = {
        path: jax.ShapeDtypeStruct(leaf.shape, kept.get(path, leaf.dtype))
        for path, leaf in packed_like(abstract_params_of(config), manifest.leaves).items()
    }
    params = unpacked(checkpoints.load(directory / PARAMS, expected)[0])
    return Base(
        config,
        jax.tree.map(jnp.asarray, params),
        load_tokenizer(directory, config.vocabulary),
        metadata["origin"],
        metadata["recipe"],
    )


def cached_path(recipe: Mapping[str, Any], cache: str) -> Path:
    """Where in a cache of bases the one of a recipe is, or belongs."""
    key = sha256_of_json({"format": FORMAT, **recipe})[:12]
    return as_path(cache) / f"world-{key}"
