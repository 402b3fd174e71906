"""JSON files that are read back: each object carries a digest of itself, so that no bit flips."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from smf_jax.checkpoints.manifest import sha256_of_json

SEAL = "sha256"  # the key of the digest


def seal(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values with the digest of all of them as one more key."""
    return {**values, SEAL: sha256_of_json(values)}


def unseal(text: str | bytes, where: str) -> dict[str, Any]:
    """The object that a text holds, less its digest; what was written without one is taken as is.

    Raises:
      ValueError: no JSON object, or not the one that was sealed, which begins with ``where``.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: no JSON that can be read ({error}); restore a copy") from None
    if not isinstance(values, dict):
        raise ValueError(f"{where}: {type(values).__name__} instead of an object; restore a copy")
    if SEAL in values and values.pop(SEAL) != sha256_of_json(values):
        raise ValueError(
            f"{where}: changed since it was written, it does not match its own digest; restore a "
            f'copy, or remove "{SEAL}" from it if the change is meant'
        )
    return values
