"""What a server answers with: a base that is placed once, and any set of its patches.

The record on disk is what counts: where a command or the page has changed it, the sets are made
anew from it, while what runs already ends with the rows that it began with.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from smf_jax.bases.base import Base
from smf_jax.checkpoints.manifest import sha256_of_json
from smf_jax.models.generate import widened
from smf_jax.params import Params, is_pool
from smf_jax.serving.patch_names import listed_names, places_of, require_whole, written_over
from smf_jax.serving.shared_tables import SharedTable, share_table
from smf_jax.sparse.patch import Patch
from smf_jax.tables import on_host
from smf_jax.taught.directory import RECORD, TaughtDirectory
from smf_jax.taught.record import Record

_INDEX_BYTES = 2**28  # of the indices that are kept placed


@dataclass(frozen=True, eq=False)
class PatchSet:
    """A base with some of its patches."""

    places: tuple[int, ...]  # of the patches in the record
    names: tuple[str, ...]
    patches: tuple[Patch, ...]
    params: Params  # by path, placed
    fingerprint: str  # of the base and of these patches


class _State:
    """The sets of one record."""

    def __init__(
        self, record: Record, patches: Sequence[Patch], params: Params, tables: Params, base: str
    ) -> None:
        self.record, self.patches = record, tuple(patches)
        self._params, self._base = params, base
        self._tables: dict[str, SharedTable] = {
            path: share_table(table, path, patches) for path, table in tables.items()
        }
        self.needs = [
            [record.patches[place].name for place in written_over(patches, later)]
            for later in range(len(patches))
        ]
        self._sets: OrderedDict[tuple[int, ...], PatchSet] = OrderedDict()
        index_bytes = sum(table.index.nbytes for table in self._tables.values())
        self._most = max(4, min(64, _INDEX_BYTES // max(1, index_bytes)))

    def find(self, places: tuple[int, ...]) -> PatchSet:
        """The set of these patches; those that were asked for last are kept."""
        if found := self._sets.get(places):
            self._sets.move_to_end(places)
            return found
        require_whole(self.record, self.patches, places)
        chosen = {place: self.patches[place] for place in places}
        params: dict[str, Any] = dict(self._params)
        for path, table in self._tables.items():
            params[path] = table.with_patches(path, chosen)
        for patch in chosen.values():
            for path, change in patch.scalars.items():
                params[path] = jnp.asarray(change.new)
        names = tuple(self.record.patches[place].name for place in places)
        told = [self._base, *(self.record.patches[place].digest for place in places)]
        made = PatchSet(places, names, tuple(chosen.values()), params, sha256_of_json(told))
        self._sets[places] = made
        while len(self._sets) > self._most:
            self._sets.popitem(last=False)
        return made


class ServedModels:
    """The sets of patches of a taught model, by name; for any number of threads."""

    def __init__(self, directory: TaughtDirectory) -> None:
        """Reads base and patches, all checked, and places the base."""
        directory.require()
        self.directory, self._lock = directory, threading.Lock()
        self.base: Base = directory.load_base()
        params = self.base.params
        # Tables stay on the host: what is placed is the store that they are put into.
        self._tables: Params = {p: on_host(leaf) for p, leaf in params.items() if is_pool(p)}
        self._params: Params = {
            path: jnp.asarray(widened(path, leaf, self.base.config.dtype))
            for path, leaf in params.items()
            if not is_pool(path)
        }
        self._fingerprint = directory.base_fingerprint()
        self._seen = self._stamp()
        self._state = self._read()

    def described(self) -> tuple[Record, list[list[str]]]:
        """The record as it is on disk, and for each patch the earlier ones that it wrote over."""
        state = self._current()
        return state.record, state.needs

    def names(self) -> list[str]:
        """The names that clients are told, those of sets that can be made."""
        state, found = self._current(), []
        for name in listed_names(state.record):
            try:
                require_whole(state.record, state.patches, places_of(state.record, name))
            except ValueError:
                continue
            found.append(name)
        return found

    def find(self, name: str) -> PatchSet:
        """The set of a name.

        An `UnknownModel` for one that is none; a ValueError for a set that cannot be made.
        """
        with self._lock:
            state = self._refreshed()
            return state.find(places_of(state.record, name))

    def _current(self) -> _State:
        with self._lock:
            return self._refreshed()

    def _refreshed(self) -> _State:
        stamp = self._stamp()
        if stamp != self._seen:
            try:
                self._state = self._read()
                self._seen = stamp
            except FileNotFoundError:
                pass  # patches were replaced meanwhile: the next request finds the record after it
        return self._state

    def _stamp(self) -> tuple[int, int, int]:
        told = (self.directory.path / RECORD).stat()
        return told.st_mtime_ns, told.st_size, told.st_ino

    def _read(self) -> _State:
        record = self.directory.read()
        patches = self.directory.load_patches(record)
        state = _State(record, patches, self._params, self._tables, self._fingerprint)
        state.find(tuple(range(len(patches))))  # every patch fits on those before it
        return state
