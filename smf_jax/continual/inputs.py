"""The files that a run or a base is made from, with digests: what a resume has to find again."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import PurePath
from typing import Any

from smf_jax import checkpoints
from smf_jax.bases.base import PARAMS
from smf_jax.checkpoints.files import sha256_of_file
from smf_jax.checkpoints.manifest import sha256_of_json
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.stream_tasks import OWN_STREAM
from smf_jax.data.readers import Reader
from smf_jax.data.tokenizer import FILES as TOKENIZER_FILES
from smf_jax.errors import blame_flag
from smf_jax.evaluation.probes.registry import parse_probes
from smf_jax.interop.export.model import MANIFEST
from smf_jax.interop.gguf.package import locate_base
from smf_jax.interop.huggingface.checkpoint import INDEX
from smf_jax.paths import as_path

# By flag, or by flag and item as in ``probes=nq``: the ``path`` that was given, and the digest of
# each of its ``files`` by name, "." where the path is the file.
Inputs = dict[str, dict[str, Any]]
# What `load_base` may read of a directory, beside leaves.
_OF_BASE = ("*.safetensors", "patches/*.safetensors", MANIFEST, INDEX, *TOKENIZER_FILES)


def inputs_of_sweep(config: SweepConfig) -> Inputs:
    """Those of a sweep; a ValueError tells of malformed ``--probes``."""
    base, stream = config.base.base, config.stream.stream
    probes = {f"probes={each.name}": each.source for each in parse_probes(config.probes.probes)}
    return digest_inputs(
        Reader(config.data.data_dir),
        base="" if base == "world" else base,
        stream="" if stream in OWN_STREAM else stream,
        background=config.background.background,
        background_questions=config.background.background_questions,
        **probes,
    )


def digest_inputs(reader: Reader, base: str = "", **sources: str) -> Inputs:
    """A base and sources of text or questions, by flag; what cannot be read yet is left out.

    A ValueError tells of a damaged checkpoint.
    """
    found = {}
    for flag, source in {"base": base, **sources}.items():
        with blame_flag(f"--{flag}={source}: "):
            digests = _digests(source, reader, flag) if source else {}
        if digests:
            found[flag] = {"path": source, "files": digests}
    return found


def changed_inputs(before: Inputs, now: Inputs) -> list[str]:
    """The inputs that are there twice with other content, each with the names of its files."""
    lines = []
    for flag in sorted(before.keys() & now.keys()):
        was, files, path = before[flag]["files"], now[flag]["files"], now[flag]["path"]
        names = sorted(name for name in {*was, *files} if was.get(name) != files.get(name))
        if names:
            told = ", ".join(PurePath(path).name if name == "." else name for name in names)
            lines.append(f"--{flag}={path} ({told})")
    return lines


def follow_moves(values: Mapping[str, Any], before: Inputs, now: Inputs) -> dict[str, Any]:
    """Settings by flag, of ``before``, with the paths that files of the same content have now."""
    moved = dict(values)
    for name in before.keys() & now.keys():
        flag, _, item = name.partition("=")
        if before[name]["files"] == now[name]["files"] and flag in moved:
            old, new = before[name]["path"], now[name]["path"]
            parts = str(moved[flag]).split(",") if item else [str(moved[flag])]
            moved[flag] = ",".join(
                part.removesuffix(old) + new
                if part.endswith(old) and part.startswith(f"{item}=" if item else "")
                else part
                for part in parts
            )
    return moved


def _digests(source: str, reader: Reader, flag: str) -> dict[str, str]:
    """The digest of each file of a source by name; of a checkpoint that of its manifest."""
    with blame_flag(f"--{flag}="):
        path = locate_base(source) if flag == "base" else as_path(source)
    digests, files = {}, []
    for name in (PARAMS, ".") if flag == "base" else (".",):
        if checkpoints.is_complete(path / name):
            # Its own digest of every leaf, which loading it verifies.
            manifest = checkpoints.read_manifest(path / name).to_json()
            digests[name] = sha256_of_json(manifest)
    if flag == "base":
        inside = [file for pattern in _OF_BASE for file in sorted(path.glob(pattern))]
        files = [path] if path.is_file() else inside
    elif not digests:
        with suppress(OSError, ValueError):  # whoever reads it tells why, or downloads it first
            files = reader.files(source, flag)
    with ThreadPoolExecutor() as pool:
        found = pool.map(sha256_of_file, files)
    named = ["." if file == path else file.name for file in files]
    return {**digests, **dict(zip(named, found, strict=True))}
