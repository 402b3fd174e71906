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
DAMAGED = (
    "The files changed after they were saved or were copied only in part; restore them from a "
    "copy, or save the checkpoint again."
)

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
    """What a checkpoint holds, without its arrays.

    Attributes:
      leaves: by path.
      metadata: JSON values that were saved with them.
    """

    leaves: dict[str, Leaf]
    metadata: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the arrays, equal to ``fingerprint(arrays)``."""
        return fingerprint_of_leaves(self.leaves)

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON, with a checksum of itself.

        Raises:
          ValueError: metadata that JSON cannot hold.
        """
        try:
            metadata = json.loads(json.dumps(self.metadata, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"metadata: {error}. Pass JSON values: strings, finite numbers, booleans, None, "
                "lists and dictionaries of these."
            ) from None
        leaves = {name: dataclasses.asdict(leaf) for name, leaf in self.leaves.items()}
        body = {"format": FORMAT, "leaves": leaves, "metadata": metadata}
        return {**body, "sha256": sha256_of_json(body)}

    @classmethod
    def from_json(cls, stored: Any) -> Manifest:
        """Reads what `to_json` gave.

        Raises:
          ValueError: another format, or not what was written.
        """
        if not isinstance(stored, dict) or "sha256" not in stored:
            raise ValueError(f"its manifest is not one of smf_jax. {DAMAGED}")
        if stored.get("format") != FORMAT:
            raise ValueError(
                f"format {stored.get('format')!r}, this version reads format {FORMAT}. "
                "Load it with the version of smf_jax that wrote it."
            )
        body = {key: value for key, value in stored.items() if key != "sha256"}
        if stored["sha256"] != sha256_of_json(body):
            raise ValueError(f"its manifest does not match its own checksum. {DAMAGED}")
        leaves = {
            name: Leaf(tuple(leaf["shape"]), leaf["dtype"], leaf["digest"])
            for name, leaf in body["leaves"].items()
        }
        return cls(leaves, body["metadata"])

    def differences(self, expected: Mapping[str, Any]) -> list[str]:
        """One line for every leaf that is missing, not expected, or of another shape or dtype.

        Args:
          expected: by path, anything with ``shape`` and ``dtype``.
        """
        found = [f"{name}: missing" for name in sorted(expected.keys() - self.leaves.keys())]
        found += [f"{name}: not expected" for name in sorted(self.leaves.keys() - expected.keys())]
        for name in sorted(self.leaves.keys() & expected.keys()):
            have, want = self.leaves[name], expected[name]
            dtype = np.dtype(want.dtype).name
            if (have.shape, have.dtype) != (tuple(want.shape), dtype):
                found.append(
                    f"{name}: {have.dtype}{list(have.shape)}, expected {dtype}{list(want.shape)}"
                )
        return found


def fingerprint(arrays: Mapping[str, Any]) -> str:
    """Identifies a set of named arrays by path, shape, dtype and bytes, in any order.

    Args:
      arrays: flat dictionary of arrays (NumPy or JAX, any sharding).

    Returns:
      64 hexadecimal digits; equal if and only if every path, shape, dtype and bit is.
    """
    return fingerprint_of_leaves(describe(to_host(arrays)))


def fingerprint_of_leaves(leaves: Mapping[str, Leaf]) -> str:
    """The fingerprint of the arrays that these leaves describe."""
    return sha256_of_json({name: dataclasses.asdict(leaf) for name, leaf in leaves.items()})


def to_host(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Brings every array to the host whole, in native byte order, sorted by path.

    In a multi-process program every process calls this together.

    Raises:
      ValueError: an array that does not hold plain numbers.
    """
    return {name: _to_host(name, arrays[name]) for name in sorted(arrays)}


def describe(arrays: Mapping[str, np.ndarray]) -> dict[str, Leaf]:
    """Describes arrays that are on the host, the blocks of all of them hashed in parallel."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {
            name: Leaf(array.shape, array.dtype.name, _digest(array, pool))
            for name, array in arrays.items()
        }


def sha256_of_json(value: Any) -> str:
    """Hashes a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _to_host(name: str, array: Any) -> np.ndarray:
    if isinstance(array, jax.Array):
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            raise ValueError(
                f"array {name!r}: a typed random key has no bytes; pass jax.random.key_data(key)."
            )
        if not (array.is_fully_addressable or array.is_fully_replicated):
            array = multihost_utils.process_allgather(array, tiled=True)
    array = np.asarray(array)
    if array.dtype.kind not in "biufcV" or array.dtype.fields:  # V: the types of ml_dtypes
        raise ValueError(f"array {name!r}: dtype {array.dtype} does not hold numbers.")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _digest(array: np.ndarray, pool: ThreadPoolExecutor) -> str:
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    blocks = [data[start : start + _BLOCK_BYTES] for start in range(0, data.size, _BLOCK_BYTES)]
    digests = pool.map(lambda block: hashlib.sha256(block).digest(), blocks)
    return hashlib.sha256(b"".join(digests)).hexdigest()
