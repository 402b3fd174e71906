"""Checkpoints: Orbax underneath, a manifest with a digest of every leaf on top.

Orbax commits a save atomically, but it loads flipped bytes without a word and reports a tree that
does not fit in hundreds of lines. The manifest (``manifest/data.json``) closes both gaps: it is
committed with the arrays, and every load is compared with it leaf by leaf.

A checkpoint is a flat dictionary of arrays, ``{"layers_0/attention/query/kernel": ..., ...}``, and
a dictionary of JSON values. On disk the arrays form the nested tree that the paths spell, so that
``orbax.checkpoint.v1.load(path)`` gives the parameter tree to people without this package.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from smf_jax.checkpoints.manifest import DAMAGED, Leaf, Manifest, describe, to_host

# 16 MiB chunks without compression save five times faster than Orbax's defaults.
_CHUNK_BYTES = 16 << 20
_ARRAYS, _MANIFEST = "arrays", "manifest"  # the two parts of a checkpoint, a directory each
_UNFINISHED = ".orbax-checkpoint-tmp"  # what Orbax appends to a directory until it is committed
_SETTLE_SECONDS = 0.2  # for the reads that are still under way after one has failed
_MOST_NAMED = 8  # damaged leaves looked for and named in one error


def save(
    path: epath.PathLike,
    arrays: Mapping[str, Any],
    metadata: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> str:
    """Saves named arrays and metadata; the checkpoint appears whole or not at all.

    Every process of a multi-process program calls this together. Killed at any moment, an earlier
    checkpoint under the same path, which ``overwrite`` replaces, is still on disk.

    Args:
      path: directory to create.
      arrays: flat dictionary of arrays, keys joined with "/"; no key may be a prefix of another.
      metadata: JSON values (tuples come back as lists).
      overwrite: replace the checkpoint that stands at ``path``.

    Returns:
      The fingerprint of the arrays.

    Raises:
      FileExistsError: ``path`` exists and ``overwrite`` is False.
      OSError: the disk is full or may not be written.
      ValueError: a key, an array or a metadata value that cannot be stored.
    """
    target = _absolute(path)
    _check_target(target, overwrite)
    host = to_host(arrays)
    tree = _nest({name: array for name, array in host.items() if array.size})
    manifest = Manifest(describe(host), dict(metadata))
    # Orbax stores neither empty arrays (the manifest describes them in full) nor empty trees.
    _commit(target, tree or {"_empty": np.zeros(1, np.int8)}, manifest.to_json())
    return manifest.fingerprint


def load(
    path: epath.PathLike,
    expected: Mapping[str, Any] | None = None,
    shardings: jax.sharding.Sharding | Mapping[str, jax.sharding.Sharding] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Loads a checkpoint and verifies every leaf against the manifest.

    Every process reads and verifies the whole checkpoint on the host, then places its own shards.

    Args:
      path: directory of the checkpoint.
      expected: flat dictionary of anything with ``shape`` and ``dtype``. If given, the checkpoint
        must hold exactly these leaves; all differences are reported at once, before any data
        is read.
      shardings: where to place the arrays, one for all or one per leaf. Without it the arrays
        stay on the host as NumPy arrays, with no cast.

    Returns:
      The flat dictionary of arrays and the metadata.

    Raises:
      FileNotFoundError: nothing is there, or only an unfinished save.
      ValueError: the checkpoint is incomplete, damaged, of another format or of other leaves.
    """
    manifest = read_manifest(path)
    if expected is not None:
        _check_expected(_absolute(path), manifest, expected)
    if isinstance(shardings, Mapping) and (unplaced := manifest.leaves.keys() - shardings.keys()):
        raise ValueError(f"shardings: none for {', '.join(sorted(unplaced))}; give one per leaf.")
    with _quiet_orbax():
        host = _read_verified(_absolute(path), manifest.leaves)
    if shardings is None:
        return host, manifest.metadata
    placed = {
        name: _place(name, array, shardings[name] if isinstance(shardings, Mapping) else shardings)
        for name, array in host.items()
    }
    return placed, manifest.metadata


def read_manifest(path: epath.PathLike) -> Manifest:
    """Reads what a checkpoint holds, without its arrays.

    Raises:
      FileNotFoundError: nothing is there, or only an unfinished save.
      ValueError: not a checkpoint of this package, or a damaged one.
    """
    source = _absolute(path)
    _check_source(source)
    try:
        with _quiet_orbax(), _context():
            stored = ocp.load_checkpointables(source, {_MANIFEST: None})[_MANIFEST]
    except Exception:  # damaged files raise errors of many types, which blame Orbax's handlers
        raise ValueError(_damaged(source, f"{_MANIFEST}/data.json cannot be read. ")) from None
    try:
        return Manifest.from_json(stored)
    except ValueError as error:
        raise ValueError(f"checkpoint {source}: {error}") from None


def read_metadata(path: epath.PathLike) -> dict[str, Any]:
    """Reads the metadata given to `save`, without the arrays; raises as `read_manifest`."""
    return read_manifest(path).metadata


def is_complete(path: epath.PathLike) -> bool:
    """Whether a committed checkpoint stands at ``path`` (its arrays are not read)."""
    # Orbax commits both parts by one rename. Its own is_orbax_checkpoint accepts any directory.
    source = _absolute(path)
    parts = (source / _ARRAYS, source / _MANIFEST)
    return not _is_unfinished(source) and all(part.exists() for part in parts)


def _nest(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Turns ``{"a/b": x}`` into ``{"a": {"b": x}}``; refuses paths that clash on disk."""
    tree: dict[str, Any] = {}
    for name, array in flat.items():
        *parents, last = name.split("/")
        if not all((*parents, last)) or "." in name:  # Orbax joins the levels with a dot
            raise ValueError(
                f"array {name!r}: not a path. Join non-empty names without dots by '/', "
                "such as 'layers_0/attention/query/kernel'."
            )
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"array {name!r}: another array stands at a part of this path.")
        # Sorted order puts a path before the longer ones it is a part of, never after.
        node[last] = array
    return tree


def _check_target(target: epath.Path, overwrite: bool) -> None:
    if _is_unfinished(target):
        raise ValueError(f"checkpoint {target}: {_UNFINISHED} marks unfinished saves; rename it.")
    if not target.exists():
        return
    if not overwrite:
        raise FileExistsError(
            f"checkpoint {target} exists. Choose another path or pass overwrite=True to replace it."
        )
    if not is_complete(target):
        raise FileExistsError(
            f"{target} exists and is not a checkpoint, so it is not overwritten. "
            "Choose another path or remove it yourself."
        )


def _commit(target: epath.Path, tree: dict[str, Any], manifest: dict[str, Any]) -> None:
    """Writes a checkpoint; one that is replaced goes only when its successor is complete."""
    incoming, outgoing = _staged(target)
    replaces = target.exists()
    # An `incoming` left by a kill is older than what is being saved: Orbax may replace it.
    destination = incoming if replaces else target
    try:
        with _quiet_orbax(), _context():
            ocp.save_checkpointables(
                destination, {_ARRAYS: tree, _MANIFEST: manifest}, overwrite=replaces
            )
    except Exception as error:  # a full disk raises errors of many types
        raise OSError(
            f"checkpoint {target} could not be saved ({_brief(error)}). Nothing that was saved "
            "before is lost. Check the free space and the permissions, then save again."
        ) from None
    if jax.process_index() == 0:
        if replaces:
            _remove(outgoing)
            target.rename(outgoing)
            incoming.rename(target)
        for leftover in (incoming, outgoing):
            _remove(leftover)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"smf_jax.checkpoints.store.commit:{target}")


def _staged(target: epath.Path) -> tuple[epath.Path, epath.Path]:
    return (
        target.parent / f"{target.name}.incoming",
        target.parent / f"{target.name}.outgoing",
    )


def _absolute(path: epath.PathLike) -> epath.Path:
    return epath.Path(path).expanduser().resolve()  # Orbax takes absolute paths only


def _remove(path: epath.Path) -> None:
    if path.exists():
        path.rmtree()


def _is_unfinished(path: epath.Path) -> bool:
    return _UNFINISHED in path.name


def _check_source(source: epath.Path) -> None:
    if _is_unfinished(source):
        raise ValueError(
            f"checkpoint {source} is an unfinished save (its process was stopped). "
            "Delete it and load an earlier checkpoint."
        )
    if not source.exists():
        raise FileNotFoundError(f"checkpoint {source} does not exist{_trace_of(source)}.")
    if not is_complete(source):
        raise ValueError(
            f"{source} is not a complete checkpoint of smf_jax{_trace_of(source)}. "
            "Check the path, or copy the whole directory again."
        )


def _trace_of(source: epath.Path) -> str:
    """What an interrupted save left beside a path, and what to do about it."""
    incoming, _ = _staged(source)
    if is_complete(incoming):
        return f"; replacing it was interrupted and {incoming} holds the new one: rename that"
    if (source.parent / (source.name + _UNFINISHED)).exists():
        return "; a save to it was interrupted: save it again, or load an earlier checkpoint"
    return ""


def _check_expected(source: epath.Path, manifest: Manifest, expected: Mapping[str, Any]) -> None:
    if found := manifest.differences(expected):
        raise ValueError(
            f"checkpoint {source}: {len(found)} leaves differ from what is expected:\n  "
            + "\n  ".join(found)
            + "\nLoad a checkpoint of the same configuration, or change the configuration."
        )


def _read_verified(source: epath.Path, leaves: Mapping[str, Leaf]) -> dict[str, np.ndarray]:
    try:
        host = _read(source, leaves)
    except Exception:  # Orbax and tensorstore raise many types, none of which names the leaf
        damaged = _find_unreadable(source, leaves)
    else:
        found = describe(host)
        damaged = [
            f"{name}: stored bytes are not those that were saved"
            for name, leaf in leaves.items()
            if found[name] != leaf
        ]
        if not damaged:
            return host
    if len(damaged) > _MOST_NAMED:
        damaged = [*damaged[:_MOST_NAMED], "and more"]
    raise ValueError(_damaged(source, "damaged leaves:\n  " + "\n  ".join(damaged) + "\n"))


def _read(source: epath.Path, leaves: Mapping[str, Leaf]) -> dict[str, np.ndarray]:
    """Reads the named leaves to the host, unverified."""
    abstract = {name: np.empty(leaf.shape, np.dtype(leaf.dtype)) for name, leaf in leaves.items()}
    stored = {name: array for name, array in abstract.items() if array.size}
    if stored:
        with _context():
            tree = ocp.load(source, _nest(stored), checkpointable_name=_ARRAYS)
        for name in stored:
            node: Any = tree
            for part in name.split("/"):
                node = node[part]
            abstract[name] = np.asarray(node)
    return abstract


def _find_unreadable(source: epath.Path, leaves: Mapping[str, Leaf]) -> list[str]:
    """Reads leaf by leaf, to name those that cannot be read or verified."""
    damaged: list[str] = []
    for name, leaf in leaves.items():
        try:
            if describe(_read(source, {name: leaf}))[name] != leaf:
                damaged.append(f"{name}: stored bytes are not those that were saved")
        except Exception as error:
            damaged.append(f"{name}: cannot be read ({_brief(error)})")
        if len(damaged) > _MOST_NAMED:
            break
    return damaged or ["every leaf reads alone, but not together: Orbax's own files are damaged"]


def _place(name: str, array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    placed = jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
    if placed.dtype != array.dtype:
        raise ValueError(
            f"array {name!r}: {array.dtype} would be cast to {placed.dtype} on the device. "
            "Enable jax_enable_x64, or load without shardings."
        )
    return placed


def _damaged(source: epath.Path, what: str) -> str:
    return f"checkpoint {source}: {what}{DAMAGED}"


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def _context() -> ocp.Context:
    context = ocp.Context()
    context.array.saving.use_compression = False
    context.array.saving.storage_options.chunk_byte_size = _CHUNK_BYTES
    context.memory.deepcopy_host_arrays = False  # a save is finished before anyone can write
    context.pytree.loading.partial_load = True  # leaf by leaf, to name the damaged ones
    registry = ocp.handlers.local_registry(include_global_registry=True)
    registry.add(ocp.handlers.JsonHandler, checkpointable_name=_MANIFEST)
    context.checkpointables.registry = registry
    return context


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Silences Orbax: its progress is noise, and a failure is raised once, by us.

    When one leaf fails, its siblings are still being read: asyncio logs each of them when it is
    collected, and tensorstore reports each that ends after Orbax has closed its event loop.
    """

    def keep(record: logging.LogRecord) -> bool:
        return record.name != "asyncio" and f"{os.sep}orbax{os.sep}" not in record.pathname

    def report(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            previous_hook(unraisable)

    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    for logger in loggers:
        logger.addFilter(keep)
    previous_hook, sys.unraisablehook = sys.unraisablehook, report
    try:
        yield
    except Exception:
        gc.collect()
        time.sleep(_SETTLE_SECONDS)
        raise
    finally:
        sys.unraisablehook = previous_hook
        for logger in loggers:
            logger.removeFilter(keep)
