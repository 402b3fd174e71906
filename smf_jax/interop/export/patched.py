"""An exported model with one patch more, or one less: its base is not written again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from smf_jax.checkpoints.files import write_text
from smf_jax.checkpoints.run_lock import Lock, lock_of, locked
from smf_jax.interop.export.card import with_patches
from smf_jax.interop.export.model import (
    MANIFEST,
    is_exported,
    load_exported,
    read_manifest,
    save_numbered,
)
from smf_jax.paths import is_remote
from smf_jax.sparse.patch import Patch, apply_patch, revert_patch
from smf_jax.sparse.patch_sets import chained

CARD = "README.md"


def add_patch(directory: Path, patch: Patch) -> None:
    """Puts a patch after those of an exported model, whose base has to be the patch's.

    A patch that was made after another state comes after this one where its old rows are the same.
    A ValueError names every pool that does not fit; the directory is as it was then.
    """
    with _held(directory):
        found, base = load_exported(directory), read_manifest(directory).fingerprint
        apply_patch(found.params, patch, base=base)
        _replace_patches(directory, found.patches, [*found.patches, patch])


def remove_patch(directory: Path, name: str) -> Patch:
    """Takes a patch back, by its task or the first characters of the state that it leads to.

    Later patches stay, where they changed other slots. Returns the patch. A ValueError tells that
    no patch, or more than one, has that name, or which later patches are in the way.
    """
    with _held(directory):
        found = load_exported(directory)
        places = [
            place
            for place, patch in enumerate(found.patches)
            if name and (name == patch.task or patch.fingerprint.startswith(name))
        ]
        if len(places) != 1:
            has = ", ".join(f"{each.task!r} ({each.fingerprint[:12]})" for each in found.patches)
            raise ValueError(
                f"{name!r} names {len(places)} of the patches of {directory}, expected one of: "
                f"{has or 'none, there are no patches'}"
            )
        (place,) = places
        patch, later = found.patches[place], found.patches[place + 1 :]
        revert_patch(found.params, patch, later)
        _replace_patches(directory, found.patches, [*found.patches[:place], *later])
        return patch


def _held(directory: Path) -> AbstractContextManager[Lock | None]:
    """The lock of a model while its patches change."""
    if is_remote(directory):
        raise ValueError(f"{directory}: expected a local directory; copy the model there first")
    if not is_exported(directory):
        raise FileNotFoundError(f"{directory} is no exported model; see experiments.export")
    return locked(lock_of(directory), str(directory))


def _replace_patches(directory: Path, was: Sequence[Patch], patches: Sequence[Patch]) -> None:
    """Writes another set of patches: new files first, then the list of them, which is what counts.

    Killed in between, the model is the one before or the one after.
    """
    manifest, card = read_manifest(directory), directory / CARD
    try:  # before anything is written
        text = card.read_text(encoding="utf-8") if card.is_file() else None
    except UnicodeDecodeError as error:
        raise ValueError(f"{card}: no text in UTF-8 ({error}); save it as such") from None
    before = manifest.metadata["patches"]
    chain = chained(patches, manifest.fingerprint)
    names: list[dict[str, str]] = []
    for number, patch in enumerate(chain):
        same = [place for place, each in enumerate(was) if each is patch]
        names.append(before[same[0]] if same else save_numbered(directory, number, patch))
    told = replace(manifest, metadata={**manifest.metadata, "patches": names})
    write_text(directory / MANIFEST, json.dumps(told.to_json(), indent=1) + "\n")
    if text is not None:
        write_text(card, with_patches(text, chain))
    listed = {entry["file"] for entry in names}
    for file in (directory / "patches").glob("*.safetensors"):
        # No longer listed, or left by a call that was killed.
        if f"patches/{file.name}" not in listed:
            file.unlink()
