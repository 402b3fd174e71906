"""Tables that lie in host memory: a device holds the rows of a batch, fetched ahead of its step.

What a hashed router reads is known before the forward pass, so the rows of the next batch are
gathered and sent while a step runs. On the device they are an `ImplicitTable` of which nothing else
exists: an index of four bytes a slot and a store of as many rows as a batch can read. Layers,
selection and step see a table like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smf_jax.data.batching import Batch
from smf_jax.tables import ImplicitTable
from smf_jax.training.sparse_step import SparseState
from smf_jax.training.step import StepMetrics

# ``(batch) -> slots`` that it may read, of any shape, by path of the table; on the host.
SlotsFn = Callable[[Batch], Mapping[str, np.ndarray]]


class Fetched(NamedTuple):
    """Rows of a batch on the device, and whose they are."""

    slots: np.ndarray  # ``(m,)`` distinct, ascending; that of number ``i`` is row ``i + 1``
    table: ImplicitTable


class HostTable:
    """A table ``(N, v)`` in host memory, of which ``room`` rows at a time are on the device."""

    def __init__(self, values: np.ndarray, room: int) -> None:
        """Takes over ``values``, which `put_back` changes in place."""
        self.values = values
        self._room = room

    def fetch(self, slots: np.ndarray) -> Fetched:
        """Sends the rows of some slots, repeated or not; a ValueError if there is no room."""
        own = np.unique(slots)
        if own.size > self._room:
            raise ValueError(
                f"a batch reads {own.size:,} distinct rows and room={self._room:,}; give the table "
                "more room, or make batches smaller"
            )
        rows = np.zeros((self._room + 1, self.values.shape[1]), self.values.dtype)
        np.take(self.values, own, axis=0, out=rows[1 : own.size + 1])
        # Of one size whatever was read, so that one program places it; the rest is dropped.
        padded = np.full(self._room, len(self.values), np.int32)
        padded[: own.size] = own
        index = _index(jnp.asarray(padded), len(self.values))
        return Fetched(own, ImplicitTable(index, jnp.asarray(rows), jnp.int32(own.size + 1)))

    def put_back(self, fetched: Fetched, after: ImplicitTable) -> None:
        """Writes the rows of a batch as a step has left them."""
        self.values[fetched.slots] = np.asarray(after.rows)[1 : fetched.slots.size + 1]


def host_steps(
    step: Callable[..., tuple[SparseState, StepMetrics]],
    shared: Any,
    state: SparseState,
    batches: Iterable[Batch],
    settings: Any,
    tables: Mapping[str, HostTable],
    slots_of: SlotsFn,
) -> Iterator[tuple[SparseState, StepMetrics]]:
    """Runs a sparse step for each batch, whose rows were fetched while the one before it ran.

    ``step(shared, state, batch, settings)`` is jitted and may donate the state. What it leaves is
    in the host's tables when the next is asked for. States that are given out are the device's: of
    the tables in them only the rows of their batch exist.
    """

    def fetch(batch: Batch) -> dict[str, Fetched]:
        slots = slots_of(batch)
        return {path: table.fetch(slots[path]) for path, table in tables.items()}

    with ThreadPoolExecutor(1) as ahead:
        waiting: Future[dict[str, Fetched]] | None = None
        batch, rest = None, iter(batches)
        for following in rest:
            if batch is None:
                batch, waiting = following, ahead.submit(fetch, following)
                continue
            assert waiting is not None
            own = waiting.result()
            waiting = ahead.submit(fetch, following)
            state, metrics = _run(step, shared, state, batch, settings, own)
            # The step is running; what it writes of rows that are fetched meanwhile is seen to
            # once both are done.
            later = waiting.result()
            waiting = _done(_finish(tables, own, state, later))
            batch = following
            yield state, metrics
        if batch is not None and waiting is not None:
            own = waiting.result()
            state, metrics = _run(step, shared, state, batch, settings, own)
            _finish(tables, own, state, {})
            yield state, metrics


def _run(
    step: Callable[..., tuple[SparseState, StepMetrics]],
    shared: Any,
    state: SparseState,
    batch: Batch,
    settings: Any,
    own: Mapping[str, Fetched],
) -> tuple[SparseState, StepMetrics]:
    fetched = {path: each.table for path, each in own.items()}
    return step(shared, state._replace(tables={**state.tables, **fetched}), batch, settings)


def _finish(
    tables: Mapping[str, HostTable],
    own: Mapping[str, Fetched],
    state: SparseState,
    later: Mapping[str, Fetched],
) -> dict[str, Fetched]:
    """Puts rows back, and renews those that were fetched before the step was done."""
    renewed = dict(later)
    for path, fetched in own.items():
        tables[path].put_back(fetched, state.tables[path])
        if path in later:
            both = np.isin(later[path].slots, fetched.slots)
            if both.any():
                renewed[path] = _renewed(tables[path], later[path], np.flatnonzero(both))
    return renewed


def _renewed(table: HostTable, fetched: Fetched, places: np.ndarray) -> Fetched:
    rows = fetched.table.rows
    # Of one size; the zero row is written with zeros.
    where, new = np.zeros(rows.shape[0], np.int32), np.zeros(rows.shape, rows.dtype)
    where[: places.size] = places + 1
    new[: places.size] = table.values[fetched.slots[places]]
    renewed = ImplicitTable(fetched.table.index, _write(rows, where, new), fetched.table.used)
    return Fetched(fetched.slots, renewed)


def _done(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future


@partial(jax.jit, static_argnums=1)
def _index(slots: jax.Array, table_slots: int) -> jax.Array:
    numbers = jnp.arange(1, slots.shape[0] + 1, dtype=jnp.int32)
    return jnp.zeros(table_slots, jnp.int32).at[slots].set(numbers, mode="drop")


@partial(jax.jit, donate_argnums=0)
def _write(rows: jax.Array, where: jax.Array, new: jax.Array) -> jax.Array:
    return rows.at[where].set(new)
