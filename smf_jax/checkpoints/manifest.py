"""What a set of named arrays is, bit for bit: shapes, dtypes, digests, one fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

FORMAT = 1
DAMAGED = "The files changed since, or were copied in part; restore a copy, or save them again."

_BLOCK_BYTES = 16 << 20


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array without its values."""

    shape: tuple[int, ...]
    dtype: str
    # sha256 over the sha256 of each 16 MiB block, so that the blocks of one table hash in parallel.
    digest: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds, without its arrays."""

    leaves: dict[str, Leaf]  # by path
    metadata: dict[str, Any]  # JSON values that were saved with them

    @property
    def fingerprint(self) -> str:
        """That of the arrays, equal to ``fingerprint(arrays)``."""
        return sha256_of_json({n: dataclasses.asdict(leaf) for n, leaf in self.leaves.items()})

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON, with a checksum of itself; a ValueError if JSON cannot hold it."""
        try:
            metadata = json.loads(json.dumps(self.metadata, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"metadata: {error}. Pass finite JSON values.") from None
        leaves = {name: dataclasses.asdict(leaf) for name, leaf in self.leaves.items()}
        body = {"format": FORMAT, "leaves": leaves, "metadata": metadata}
        return {**body, "sha256": sha256_of_json(body)}

    @classmethod
    def from_json(cls, stored: Any) -> Manifest:
        """Reads what `to_json` gave; a ValueError tells of another format, or of damage."""
        if not isinstance(stored, dict) or "sha256" not in stored:
            raise ValueError(f"its manifest cannot be read or is not of smf_jax. {DAMAGED}")
        if stored.get("format") != FORMAT:
            raise ValueError(
                f"format {stored.get('format')!r}, this version reads format {FORMAT}. "
                "Load it with the version of smf_jax that wrote it."
            )
        body = dict(stored)
        if body.pop("sha256") != sha256_of_json(body):
            raise ValueError(f"its manifest does not match its own checksum. {DAMAGED}")
        stored = body["leaves"].items()
        leaves = {name: Leaf(**{**leaf, "shape": tuple(leaf["shape"])}) for name, leaf in stored}
        return cls(leaves, body["metadata"])


def fingerprint(arrays: Mapping[str, Any]) -> str:
    """Identifies named arrays (NumPy or JAX, any sharding), in any order.

    64 hexadecimal digits, equal if and only if every path, shape, dtype and bit is.
    """
    return Manifest(describe(to_host(arrays)), {}).fingerprint


def to_host(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Brings every array to the host whole, in native byte order, sorted by path.

    Every process calls this together. A ValueError names an array that holds no plain numbers.
    """
    host = {}
    for name in sorted(arrays):
        array = arrays[name]
        if isinstance(array, jax.Array):
            if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
                raise ValueError(f"array {name!r}: a random key; pass jax.random.key_data(key).")
            if not (array.is_fully_addressable or array.is_fully_replicated):
                array = multihost_utils.process_allgather(array, tiled=True)
        array = np.asarray(array)
        if array.dtype.kind not in "biufcV" or array.dtype.fields:  # V: the types of ml_dtypes
            raise ValueError(f"array {name!r}: dtype {array.dtype} does not hold numbers.")
        host[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return host


def describe(arrays: Mapping[str, np.ndarray]) -> dict[str, Leaf]:
    """Describes arrays that are on the host, the blocks of all of them hashed in parallel."""

    def digest(array: np.ndarray) -> str:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        blocks = [data[start : start + _BLOCK_BYTES] for start in range(0, data.size, _BLOCK_BYTES)]
        digests = pool.map(lambda block: hashlib.sha256(block).digest(), blocks)
        return hashlib.sha256(b"".join(digests)).hexdigest()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {name: Leaf(a.shape, a.dtype.name, digest(a)) for name, a in arrays.items()}


def sha256_of_json(value: Any) -> str:
    """Hashes a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
