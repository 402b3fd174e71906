"""Checkpoints: Orbax underneath, a manifest with a digest of every leaf on top.

Orbax commits a save atomically, but it loads flipped bytes without a word and reports a tree that
does not fit in hundreds of lines. The manifest (``manifest/data.json``) closes both gaps.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import reduce, wraps
from operator import getitem
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from smf_jax import processes
from smf_jax.checkpoints.files import whole_directory
from smf_jax.checkpoints.manifest import DAMAGED, Leaf, Manifest, describe, to_host
from smf_jax.paths import PathLike, as_path, copy, is_remote, is_whole


class _Copies:
    """Whether each process of a program has a directory of its own (`as_one_program`).

    Orbax saves for all of them at one path, which is then that of the first; others copy it.
    """

    on = False


copies = _Copies()
Reads = TypeVar("Reads", bound=Callable[..., Any])
# Without compression, five times faster than Orbax's defaults.
_CHUNK_BYTES = 16 << 20
_ARRAYS, _MANIFEST = "arrays", "manifest"  # the two parts of a checkpoint, a directory each
_UNFINISHED = ".orbax-checkpoint-tmp"  # what Orbax appends to a directory until it is committed
_SETTLE_SECONDS = 0.2  # for the reads that are still under way after one has failed
_MOST_NAMED = 8  # damaged leaves looked for and named in one error


def _fetching(*but: str) -> Callable[[Reads], Reads]:
    """Has a function read a copy of a checkpoint of an object store, of all ``but`` some parts."""

    def near(read: Reads) -> Reads:
        @wraps(read)
        def wrapped(path: PathLike, *args: Any, **kwargs: Any) -> Any:
            source = _absolute(path)
            if not is_remote(source):
                return read(path, *args, **kwargs)
            _check_source(source)
            with tempfile.TemporaryDirectory() as scratch:
                copy(as_path(source), copied := Path(scratch, source.name), *but)
                for part in but:
                    (copied / part).mkdir()  # it counts as there
                try:
                    return read(copied, *args, **kwargs)
                except ValueError as error:
                    raise ValueError(str(error).replace(str(copied), str(source))) from None

        return cast(Reads, wrapped)

    return near


def save(
    path: PathLike,
    arrays: Mapping[str, Any],
    metadata: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> str:
    """Saves arrays by path and JSON values; the checkpoint appears whole or not at all.

    Every process of a multi-process program calls this together, on a disk that they share. Killed
    at any moment, an earlier checkpoint under the same path, which ``overwrite`` replaces, is still
    on disk. The arrays lie there as the nested tree that their paths spell:
    ``orbax.checkpoint.v1.load(path)`` gives it to people without this package. No path may be a
    part of another; tuples come back as lists. Returns the fingerprint of the arrays.

    Raises:
      FileExistsError: ``path`` exists and ``overwrite`` is False.
      OSError: the disk is full or may not be written.
      ValueError: a key, an array or a metadata value that cannot be stored.
    """
    target = _absolute(path)
    if _UNFINISHED in target.name:
        raise ValueError(f"checkpoint {target}: {_UNFINISHED} marks unfinished saves; rename it.")
    stands = is_whole(as_path(target))
    if stands and not overwrite:
        raise FileExistsError(f"checkpoint {target} exists. Choose another or give overwrite=True.")
    if stands and not is_complete(target):
        raise FileExistsError(f"{target} is not a checkpoint. Choose another path or remove it.")
    host = to_host(arrays)
    tree = _nest({name: array for name, array in host.items() if array.size})
    manifest = Manifest(describe(host), dict(metadata))
    # Orbax stores neither empty arrays (the manifest describes them in full) nor empty trees.
    parts = {_ARRAYS: tree or {"_empty": np.zeros(1, np.int8)}, _MANIFEST: manifest.to_json()}
    if copies.on:
        _commit_copies(target, parts, overwrite)
    else:
        _send(target, parts, overwrite) if is_remote(target) else _commit(target, parts)
    return manifest.fingerprint


@_fetching()
def load(
    path: PathLike,
    expected: Mapping[str, Any] | None = None,
    shardings: jax.sharding.Sharding | Mapping[str, jax.sharding.Sharding] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Loads arrays by path and the metadata, and verifies every leaf against the manifest.

    Every process reads and verifies the whole checkpoint on the host, then places its own shards.
    It must hold exactly the leaves of ``expected``, if given, anything with ``shape`` and ``dtype``
    by path; all differences are reported at once, before any data is read. Without ``shardings``,
    one for all or one per leaf, the arrays stay on the host as NumPy arrays, with no cast.

    Raises:
      FileNotFoundError: nothing is there, or only an unfinished save.
      ValueError: the checkpoint is incomplete, damaged, of another format or of other leaves.
    """
    manifest, source = read_manifest(path), _absolute(path)
    if expected is not None:
        _check_expected(source, manifest.leaves, expected)
    if shardings is not None and not isinstance(shardings, Mapping):
        shardings = dict.fromkeys(manifest.leaves, shardings)
    if shardings is not None and (unplaced := manifest.leaves.keys() - shardings.keys()):
        raise ValueError(f"shardings: none for {', '.join(sorted(unplaced))}; give one per leaf.")
    with _quiet_orbax():
        host = _read_verified(source, manifest.leaves)
    if shardings is not None:
        host = {name: _place(name, array, shardings[name]) for name, array in host.items()}
    return host, manifest.metadata


@_fetching(_ARRAYS)
def read_manifest(path: PathLike) -> Manifest:
    """Reads what a checkpoint holds, without its arrays; raises as `load`."""
    source, stored = _absolute(path), None
    _check_source(source)
    # Damaged files raise errors of many types, which blame Orbax's handlers.
    with contextlib.suppress(Exception), _quiet_orbax(), _context():
        stored = ocp.load_checkpointables(source, {_MANIFEST: None})[_MANIFEST]
    try:
        return Manifest.from_json(stored)
    except ValueError as error:
        raise ValueError(f"checkpoint {source}: {error}") from None


def read_metadata(path: PathLike) -> dict[str, Any]:
    """Reads the metadata given to `save`, without the arrays; raises as `load`."""
    return read_manifest(path).metadata


def is_complete(path: PathLike) -> bool:
    """Whether a committed checkpoint stands at ``path`` (its arrays are not read)."""
    # Orbax commits both parts by one rename. Its own is_orbax_checkpoint accepts any directory.
    source = _absolute(path)
    parts = (source / _ARRAYS, source / _MANIFEST)
    is_finished = _UNFINISHED not in source.name and all(part.exists() for part in parts)
    return is_finished and is_whole(as_path(source))


def _nest(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Turns ``{"a/b": x}`` into ``{"a": {"b": x}}``; refuses paths that clash on disk."""
    tree: dict[str, Any] = {}
    for name, array in flat.items():
        *parents, last = name.split("/")
        if not all((*parents, last)) or "." in name:  # Orbax joins the levels with a dot
            raise ValueError(f"array {name!r}: not a path. Join names without dots by '/'.")
        node = tree
        # Sorted order puts a path before the longer ones it is a part of, never after.
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"array {name!r}: another array stands at a part of this path.")
        node[last] = array
    return tree


def _send(target: epath.Path, parts: Mapping[str, Any], overwrite: bool) -> None:
    """Writes a checkpoint to an object store: made on this machine's disk, and sent."""
    if jax.process_count() > 1:
        raise ValueError(f"checkpoint {target}: several processes save to a shared disk only")
    with whole_directory(target, overwrite) as made:
        made.rmdir()  # Orbax makes it
        _commit(epath.Path(made), parts)


def _commit_copies(target: epath.Path, parts: Mapping[str, Any], overwrite: bool) -> None:
    """Writes a checkpoint of the first process, with all others, and then copies of theirs."""
    first = epath.Path(processes.of_first(os.fspath(target)))
    _send(first, parts, overwrite) if is_remote(first) else _commit(first, parts)
    if target != first:
        if target.exists():
            target.rmtree()
        target.parent.mkdir(parents=True, exist_ok=True)
        copy(as_path(first), as_path(target))
    processes.wait_for_all(f"copies of {first}")


def _commit(target: epath.Path, parts: Mapping[str, Any]) -> None:
    """Writes a checkpoint; one that is replaced goes only when its successor is complete."""
    incoming, outgoing = _beside(target, ".incoming"), _beside(target, ".outgoing")
    replaces = target.exists()
    # An `incoming` left by a kill is older than what is being saved: Orbax may replace it.
    destination = incoming if replaces else target
    try:
        with _quiet_orbax(), _context():
            ocp.save_checkpointables(destination, dict(parts), overwrite=replaces)
    except Exception as error:  # a full disk raises errors of many types
        raise OSError(
            f"checkpoint {target} could not be saved ({error!r:.160}). Nothing that was saved "
            "before is lost. Check the free space and the permissions, then save again."
        ) from None
    if jax.process_index() == 0:
        if replaces:
            outgoing.rmtree(missing_ok=True)
            target.rename(outgoing)
            incoming.rename(target)
        incoming.rmtree(missing_ok=True)
        outgoing.rmtree(missing_ok=True)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"smf_jax.checkpoints.store.commit:{target}")


def _beside(path: epath.Path, ending: str) -> epath.Path:
    return path.parent / (path.name + ending)


def _absolute(path: PathLike) -> epath.Path:
    found = as_path(path)
    # Orbax takes absolute paths only; epath would make one of a URL, below this directory.
    return epath.Path(found) if is_remote(found) else epath.Path(found).resolve()


def _check_source(source: epath.Path) -> None:
    """Refuses what is no checkpoint, telling what an interrupted save left beside it."""
    if _UNFINISHED in source.name:
        raise ValueError(f"checkpoint {source} is an unfinished save. Load an earlier one.")
    incoming, trace = _beside(source, ".incoming"), ""
    if is_complete(incoming):
        trace = f"; replacing it was interrupted and {incoming} holds the new one: rename that"
    elif _beside(source, _UNFINISHED).exists():
        trace = "; a save to it was interrupted: save it again, or load an earlier checkpoint"
    if not source.exists():
        raise FileNotFoundError(f"checkpoint {source} does not exist{trace}.")
    if not is_complete(source):
        raise ValueError(
            f"{source} is not a complete checkpoint of smf_jax{trace}. Check the path, or copy the "
            "whole directory again."
        )


def _check_expected(
    source: epath.Path, leaves: Mapping[str, Leaf], expected: Mapping[str, Any]
) -> None:
    """Lists every leaf that is missing, not expected, or of another shape or dtype."""
    have = {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves.items()}
    want = {n: f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}" for n, leaf in expected.items()}
    found = [f"{name}: missing" for name in sorted(want.keys() - have.keys())]
    found += [f"{name}: not expected" for name in sorted(have.keys() - want.keys())]
    both = sorted(have.keys() & want.keys())
    found += [f"{n}: {have[n]}, expected {want[n]}" for n in both if have[n] != want[n]]
    if found:
        head = f"checkpoint {source}: {len(found)} leaves differ from what is expected:"
        last = "\nLoad a checkpoint of the same configuration, or change the configuration."
        raise ValueError("\n  ".join([head, *found]) + last)


def _read_verified(source: epath.Path, leaves: Mapping[str, Leaf]) -> dict[str, np.ndarray]:
    # Orbax and tensorstore raise many types, none of which names the leaf.
    with contextlib.suppress(Exception):
        host = _read(source, leaves)
        if describe(host) == leaves:
            return host
    damaged: list[str] = []
    for name, leaf in leaves.items():
        try:
            if describe(_read(source, {name: leaf}))[name] != leaf:
                damaged.append(f"{name}: stored bytes are not those that were saved")
        except Exception as error:
            damaged.append(f"{name}: cannot be read ({error!r:.160})")
        if len(damaged) > _MOST_NAMED:
            damaged[_MOST_NAMED:] = ["and more"]
            break
    damaged = damaged or ["every leaf reads alone, but not together: Orbax's files are damaged"]
    raise ValueError(f"checkpoint {source}: damaged leaves:\n  " + "\n  ".join([*damaged, DAMAGED]))


def _read(source: epath.Path, leaves: Mapping[str, Leaf]) -> dict[str, np.ndarray]:
    """Reads the named leaves to the host, unverified."""
    host = {name: np.empty(leaf.shape, np.dtype(leaf.dtype)) for name, leaf in leaves.items()}
    if stored := {name: array for name, array in host.items() if array.size}:
        with _context():
            tree = ocp.load(source, _nest(stored), checkpointable_name=_ARRAYS)
        for name in stored:
            host[name] = np.asarray(reduce(getitem, name.split("/"), tree))
    return host


def _place(name: str, array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    placed = jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
    if placed.dtype != array.dtype:
        raise ValueError(
            f"array {name!r}: {array.dtype} would be cast to {placed.dtype} on the device. "
            "Enable jax_enable_x64, or load without shardings."
        )
    return placed


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

    loggers = logging.getLogger("absl"), logging.getLogger("asyncio")
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
