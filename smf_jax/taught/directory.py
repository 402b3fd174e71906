"""The directory of a taught model: its base once, its patches in order, and the record of both.

The record is what counts. Patches are written before it names them and removed after it does not,
so that a process that is killed leaves the model before a change, or the one after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from smf_jax import checkpoints
from smf_jax.bases.base import PARAMS, Base, load_base
from smf_jax.checkpoints.files import write_text
from smf_jax.checkpoints.manifest import fingerprint
from smf_jax.checkpoints.run_lock import lock_of, locked
from smf_jax.checkpoints.sealed_json import seal, unseal
from smf_jax.data.batching import Batch
from smf_jax.errors import blame_flag, require_writable
from smf_jax.evaluation.probes.known import KnownProbe
from smf_jax.interop.export.model import save_numbered
from smf_jax.interop.export.patches import load_patch
from smf_jax.models.config import MemoryPlacement, ModelConfig
from smf_jax.params import Params
from smf_jax.paths import as_path, is_remote
from smf_jax.sparse.patch import Patch, apply_patch
from smf_jax.sparse.usage import Background
from smf_jax.tables import on_host
from smf_jax.taught.record import PatchEntry, Record

RECORD, BASE, BACKGROUND, TEXT, KNOWN = "taught.json", "base", "background", "text", "known.json"


class TaughtDirectory:
    """One taught model on disk. Every write is whole or absent."""

    def __init__(self, path: str, flag: str = "") -> None:
        """Names the directory; nothing is touched. ``flag`` is what errors call it by, if any."""
        self.named = f"--{flag}={path}" if flag else path
        with blame_flag(f"--{flag}=" if flag else ""):
            self.path = as_path(path)
        if is_remote(self.path):
            raise ValueError(f"{self.named}: expected a local directory; copy the model there")
        if not self.path.absolute().name:
            raise ValueError(f"{self.named} names no directory of its own; give one, as in taught")

    @property
    def is_there(self) -> bool:
        """Whether this is a taught model, finished or not."""
        return (self.path / RECORD).is_file()

    def require(self) -> None:
        """Refuses a path at which no taught model is."""
        if not self.is_there:
            what = "is no taught model" if self.path.exists() else "no such directory"
            raise FileNotFoundError(
                f"{self.named}: {what}; give one that smf teach MODEL FACTS --out=DIR has made"
            )

    def require_free(self, flag: str) -> None:
        """Refuses a path that holds something else, or that cannot be made."""
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise FileExistsError(
                f"{self.named} exists and is no taught model; choose another directory or remove "
                "it yourself"
            )
        require_writable(self.path, flag)

    @contextmanager
    def held(self) -> Iterator[None]:
        """The lock of the model while it changes."""
        with locked(lock_of(self.path), self.named):
            yield

    def read(self) -> Record:
        """The record; a ValueError tells of damage."""
        self.require()
        file = self.path / RECORD
        return Record.from_json(unseal(file.read_bytes(), str(file)), str(file))

    def write(self, record: Record) -> None:
        """Writes the record, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(seal(record.to_json()), indent=1, ensure_ascii=False)
        write_text(self.path / RECORD, text + "\n")

    # --- the base, and what was measured on it ---------------------------------------------------

    @property
    def has_base(self) -> bool:
        """Whether the base is there, with its memory."""
        return (self.path / BASE / PARAMS).is_dir()

    def load_base(self) -> Base:
        """The base with its memory, every leaf checked against its digest."""
        if not self.has_base:
            raise ValueError(
                f"{self.named}: the base is not made yet, smf teach was interrupted; give that "
                "command again"
            )
        return load_base(str(self.path / BASE), "base")

    @property
    def placement(self) -> MemoryPlacement | None:
        """Where the memory of the base stands, which has to be there."""
        return self._model().memory

    @property
    def is_in_floats(self) -> bool:
        """Whether the base is there and its matrices are floats, as an export needs them."""
        return self.has_base and self._model().precision is None

    def _model(self) -> ModelConfig:
        """Of the base, which has to be there; its leaves are not read."""
        return ModelConfig.from_dict(checkpoints.read_metadata(self.path / BASE / PARAMS)["model"])

    def base_fingerprint(self) -> str:
        """Of the base, as its manifest tells it."""
        return checkpoints.read_manifest(self.path / BASE / PARAMS).fingerprint

    def background_path(self) -> str:
        """Where the measured background is."""
        return str(self.path / BASE / BACKGROUND)

    @property
    def has_background(self) -> bool:
        """Whether the background is measured."""
        return checkpoints.is_complete(self.background_path())

    def save_background(self, background: Background) -> None:
        """Keeps how general text uses the slots of the base."""
        checkpoints.save(self.background_path(), *background.to_arrays())

    def save_text(self, windows: Batch, name: str) -> None:
        """Keeps windows of general text, ``(rows, t)``, that no background was measured on."""
        arrays = {name: np.asarray(field) for name, field in windows._asdict().items()}
        checkpoints.save(self.path / TEXT, arrays, {"kind": "text", "name": name})

    def load_text(self) -> Batch | None:
        """What `save_text` kept."""
        path = self.path / TEXT
        return Batch(**checkpoints.load(path)[0]) if checkpoints.is_complete(path) else None

    @property
    def has_text(self) -> bool:
        """Whether windows of general text are kept."""
        return checkpoints.is_complete(self.path / TEXT)

    @property
    def has_known(self) -> bool:
        """Whether the questions that the untouched model answers are kept."""
        return (self.path / KNOWN).is_file()

    def save_known(self, probe: KnownProbe, source: str) -> None:
        """Keeps the questions that the untouched model answers."""
        told = {"file": source, "prompts": [[int(i) for i in ids] for ids in probe.prompts]}
        told |= {"answers": [list(each) for each in probe.answers], "steps": probe.steps}
        write_text(self.path / KNOWN, json.dumps(seal(told), ensure_ascii=False) + "\n")

    def load_known(self, base: Base) -> KnownProbe | None:
        """What `save_known` kept."""
        file = self.path / KNOWN
        if not self.has_known:
            return None
        told = unseal(file.read_bytes(), str(file))
        answers = tuple(map(tuple, told["answers"]))
        return KnownProbe(base.tokenizer, tuple(told["prompts"]), answers, told["steps"])

    # --- patches ---------------------------------------------------------------------------------

    def load_patches(self, record: Record) -> list[Patch]:
        """The patches in order; a ValueError tells of one that is not what was written."""
        patches, base = [], self.base_fingerprint() if record.patches else ""
        for entry in record.patches:
            file = self.path / entry.file
            if not file.is_file():
                raise FileNotFoundError(f"{file}: no such file; restore a copy of {self.path}")
            patch = load_patch(file)
            if fingerprint(patch.to_arrays()[0]) != entry.digest or patch.task != entry.name:
                raise ValueError(f"{file}: not the patch that was written; restore a copy")
            if patch.base != base:
                raise ValueError(
                    f"{file} is a patch of base {patch.base[:12]}, {self.path / BASE} is "
                    f"{base[:12]}; restore a copy of {self.path}"
                )
            patches.append(patch)
        return patches

    def load_params(self, base: Base, patches: Sequence[Patch]) -> Params:
        """The model's parameters, checked bit for bit as each patch is put in."""
        changed = {path for patch in patches for path in patch.pools}
        # On the host, where a table is not copied for each of its patches.
        params: Params = {**base.params, **{path: on_host(base.params[path]) for path in changed}}
        for patch in patches:
            params = apply_patch(params, patch, base=patch.base)
        return params | {path: jax.tree.map(jnp.asarray, params[path]) for path in changed}

    def save_patch(self, number: int, patch: Patch) -> dict[str, str]:
        """Writes a patch, which counts once the record names it; returns its file and digest."""
        told = save_numbered(self.path, number, patch)
        return {"file": told["file"], "digest": told["digest"]}

    def replace_patches(
        self, record: Record, was: Sequence[Patch], kept: Sequence[tuple[PatchEntry, Patch]]
    ) -> Record:
        """Writes a record with these patches, in order, in place of its own; returns it."""
        before = {patch.fingerprint for patch in was}
        entries = []
        for number, (entry, patch) in enumerate(kept):
            if patch.fingerprint not in before:  # it follows another patch than it did
                entry = replace(entry, **self.save_patch(number, patch))
            entries.append(entry)
        new = replace(record, patches=tuple(entries))
        self.write(new)
        self.tidy(new)
        return new

    def tidy(self, record: Record) -> None:
        """Removes patches that the record does not name: taken back, or left by a kill."""
        listed = {entry.file for entry in record.patches}
        for file in (self.path / "patches").glob("*.safetensors"):
            if f"patches/{file.name}" not in listed:
                file.unlink()

    def write_file(self, name: str, text: str) -> None:
        """Writes a file for people, whole or not at all."""
        write_text(self.path / name, text)
