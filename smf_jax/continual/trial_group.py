"""Running trials of one static shape through tasks, side by side over the devices of a mesh."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, Generic, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from smf_jax import interrupts
from smf_jax.continual.step_log import Begun, StepLog
from smf_jax.data.batching import Batch, in_chunks
from smf_jax.data.packing import Packed
from smf_jax.evaluation.likelihood import LossSum, loss_sum, mean_loss
from smf_jax.evaluation.probes.exact import exact_matches
from smf_jax.losses import at_scored, count_scored
from smf_jax.mesh import DATA, TRIAL, all_rows, own_rows, sum_over
from smf_jax.params import Params, count_bytes, is_pool
from smf_jax.processes import are_several, fetched
from smf_jax.progress import live_lines
from smf_jax.sharding import (
    beside,
    over_trials,
    replicate,
    restack,
    split_over,
    split_tables,
    stack,
    unstack,
)
from smf_jax.sparse.usage import PoolUsage
from smf_jax.split_tables import TableLayout, is_split, whole
from smf_jax.tables import of_one_capacity
from smf_jax.training.step import Lower, Settings, Shared, StepMetrics
from smf_jax.training.trainers import State, Trainer

# Before the paths of what a checkpoint holds beside parameters, for the next task.
CARRIED = "carried/"
# What the blocks below the memories give for the examples of a task, and for the rows of probes, is
# kept up to this size each.
LOWER_BYTES = 2**29


class TaskMetrics(NamedTuple):
    """Of the steps of one task, one row per trial."""

    losses: Float[np.ndarray, "trials steps"]  # ``(trials, steps)``
    selected: Int[np.ndarray, "trials steps"]  # ``(trials, steps)`` rows written
    failed_step: Int[np.ndarray, " trials"]  # ``(trials,)`` first step that was not finite, or -1


class Pauses(NamedTuple):
    """Who is shown the trials within a task, between two steps."""

    every: int  # steps
    # Told the steps done, and what gives the `Begun` of the trial at a place.
    see: Callable[[int, Callable[[int], Begun]], None]


def _at(batches: Batch, position: Array) -> Batch:
    return jax.tree.map(lambda field: field[position], batches)


def _wholes(params: Params) -> Params:
    return jax.tree.map(whole, params, is_leaf=is_split)


class TrialGroup(Generic[State]):
    """Compiled functions of trials that differ only in their `Settings`.

    As many trials as the mesh has along ``trial`` run side by side, each on the devices that stand
    along ``data`` and ``memory`` there. The base's leaves are placed once per device, the tables of
    memories over those along ``memory``. Every function is compiled once for the group, whatever
    the budgets and rates: a second trace of the step is an error.
    """

    def __init__(
        self,
        trainer: Trainer[State],
        base: Params,
        usage: Mapping[str, PoolUsage] | None,
        mesh: Mesh,
        eval_batch_size: int,
        table_layout: TableLayout = "columns",
    ) -> None:
        """Places the base on a mesh; nothing is compiled yet."""
        self.trainer = trainer
        self.mesh = mesh
        self.eval_batch_size = eval_batch_size  # rows of a probe that run at once
        self._table_layout: TableLayout = table_layout
        self._base = replicate(self._split(base), mesh)
        # The very buffers of the base, or each device would hold it twice.
        self._shared = Shared(trainer.frozen(self._base), replicate(usage, mesh))
        self.traces = 0
        self._shapes: list[tuple[int, ...]] = []  # of the states that were traced

        def step_at(
            shared: Shared,
            state: State,
            batches: Batch,
            position: Array,
            settings: Settings,
            hidden: Array | tuple[()],
        ) -> tuple[State, StepMetrics]:
            batch = _at(batches, position)
            if not isinstance(hidden, tuple):
                shared = shared._replace(lower=Lower(own_rows(batch).tokens, hidden))
            return trainer.step(shared, state, batch, settings)

        def traced() -> None:
            self.traces += 1
            if self.traces > 1:
                raise RuntimeError(
                    "the step of a group was traced twice: its batches changed shape or dtype"
                )

        def lower_at(shared: Shared, kept: Lower | None, batches: Batch, position: Array) -> Array:
            batch = own_rows(_at(batches, position))
            if kept is not None:
                return kept.of(batch.tokens)
            assert trainer.lower is not None
            return trainer.lower(shared, batch)

        def losses(shared: Shared, state: State, batch: Batch) -> LossSum:
            batch = own_rows(batch)
            logits = trainer.logits(shared, state, batch.tokens, batch.valid)
            return sum_over(DATA, loss_sum(logits, batch))

        self._begin = over_trials(trainer.begin, mesh, (False, True))
        of_task = (False, True, False, True)
        self._begin_task = over_trials(trainer.begin_task, mesh, of_task, donate=(1,))
        of_step = (False, True, True, False, True, True)
        self._step = over_trials(step_at, mesh, of_step, donate=(1,), traced=traced)
        ends = trainer.end_task
        self._end_task = ends and over_trials(ends, mesh, of_task, donate=(1,))
        # One for each number of targets and sequences, so that it compiles once.
        self._right = cache(self._right)
        self._lower = trainer.lower and over_trials(lower_at, mesh, (False, False, True, False))
        self._probed_lower = _ProbedLower(trainer, self._shared, mesh)
        self._losses = over_trials(losses, mesh, (False, True, False))

    @property
    def size(self) -> int:
        """Trials side by side."""
        return self.mesh.shape[TRIAL]

    def begin(self, settings: Sequence[Settings]) -> tuple[State, Settings]:
        """States of as many trials as `size`, before their first task, and their settings."""
        if len(settings) != self.size:
            raise ValueError(f"settings of {len(settings)} trials, the mesh runs {self.size}")
        stacked = split_over(stack(settings), self.mesh, TRIAL)
        return self._begin(self._base, stacked), stacked

    def resume(self, state: State, settings: Settings, params: Mapping[int, Params]) -> State:
        """The states in which some trials, by place, stand where an earlier run has `saved` them.

        They start anew from the base, whatever they did idle beside the others, which go on as they
        are: what they have written in earlier tasks is told by their states alone.
        """
        saved = {
            place: {path.removeprefix(CARRIED): leaf for path, leaf in of.items()}
            for place, of in params.items()
        }
        anyone = next(iter(saved.values()))  # in the places of trials that are not due
        everyone = of_one_capacity([saved.get(place, anyone) for place in range(self.size)])
        resume = over_trials(self.trainer.resume, self.mesh, (True, True), donate=(0,))
        begun = self._begin(self._base, settings)
        resumed = resume(begun, split_over(self._split(stack(everyone)), self.mesh, TRIAL))
        if len(saved) == self.size:
            return resumed
        own = [unstack(resumed if p in saved else state, p) for p in range(self.size)]
        return restack(of_one_capacity(own), self.mesh)

    def train(
        self,
        state: State,
        batches: Sequence[Batch],
        examples: Batch,
        settings: Settings,
        rows: Batch | None = None,
        *,
        names: Sequence[str] = (),
        begun: Mapping[int, Begun] | None = None,
        first: int = 0,
        pauses: Pauses | None = None,
    ) -> tuple[State, TaskMetrics]:
        """Teaches one task; the host does not wait for a step before it starts the next.

        The buffers of the stacked states are taken over. Batches are ``(steps, b, t)`` fields, per
        trial; examples are the whole task, ``(chunks, b, t)`` fields, and rows, likewise, what
        batches are dealt from, where that is not examples one by one. The steps before the
        ``first`` are left out. Trials that have ``begun`` the task before, by place, go on from
        there: until the others have come so far, their steps count for nothing. On a terminal it
        is shown how the first trials stand, as many as have ``names``.
        """
        steps = batches[0].tokens.shape[0]
        state = self.trainer.grow(state, steps)
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(state)]
        if shapes != self._shapes:  # it has grown, here or by what was resumed
            self._shapes, self.traces = shapes, 0
        examples = replicate(examples, self.mesh)
        state = self._begin_task(self._shared, state, examples, settings)
        lower = self._kept_lower(examples if rows is None else replicate(rows, self.mesh))
        placed = split_over(stack(batches), self.mesh, TRIAL)
        log, begun = StepLog(batches), begun or {}
        # What others compute cannot be looked at by a thread.
        with live_lines(() if are_several() else names, log.lines):
            for position in range(first, steps):
                due = {place: each for place, each in begun.items() if each.step == position}
                state = self._go_on(state, due, log)
                interrupts.check()
                index = jnp.asarray(position, jnp.int32)
                hidden = ()
                if self._lower is not None:
                    hidden = self._lower(self._shared, lower, placed, index)
                state, measured = self._step(self._shared, state, placed, index, settings, hidden)
                log.add(position, measured)
                if pauses and (position + 1) % pauses.every == 0 and position + 1 < steps:
                    log.fetch()
                    pauses.see(position + 1, partial(self._begun, state, log, position + 1))
            if self._end_task is not None:
                state = self._end_task(self._shared, state, examples, settings)
            log.fetch()
        return state, TaskMetrics(log.losses, log.selected, fetched(state.failed_step))

    def _begun(self, state: State, log: StepLog, step: int, place: int) -> Begun:
        """What one trial has come to after some steps of a task."""
        losses, selected = log.losses[place, :step].copy(), log.selected[place, :step].copy()
        return Begun(step, self.trainer.take(state, place), losses, selected)

    def _go_on(self, state: State, begun: Mapping[int, Begun], log: StepLog) -> State:
        """The states in which some trials have come to where they were before."""
        if not begun:
            return state
        own = [unstack(state, place) for place in range(self.size)]
        for place, each in begun.items():
            own[place] = self.trainer.put(own[place], each.state)
            log.put(place, each)
        return restack(own, self.mesh)

    def _kept_lower(self, rows: Batch) -> Lower | None:
        """What no step of a task changes, of all of its rows; ``None`` if it is too much."""
        lower = self.trainer.lower
        if lower is None:
            return None

        def of_all(shared: Shared, rows: Batch) -> Lower:
            hidden = jax.lax.map(lambda chunk: lower(shared, chunk), rows)
            return Lower(*(each.reshape(-1, *each.shape[2:]) for each in (rows.tokens, hidden)))

        if count_bytes(jax.eval_shape(of_all, self._shared, rows)) > LOWER_BYTES:
            return None
        return jax.jit(of_all)(self._shared, rows)

    def answers(
        self, state: State, asked: Packed, scored: int = 0, sequences: int = 0
    ) -> Bool[np.ndarray, "trials b"]:
        """Which sequences of a probe every trial answers; see `exact_matches`.

        Probes of one length that are told the same share one compilation, which has room for at
        least so many ``scored`` targets and ``sequences`` of a row.
        """
        scored = max(scored, count_scored(asked.rows.weights))
        right = self._right(scored, max(sequences, int(asked.number.max())))
        found = np.concatenate(fetched(self._chunks(right, state, asked.rows)), axis=1)
        return asked.of_sequences(found)

    def text_losses(self, state: State, batch: Batch) -> list[float]:
        """Every trial's mean loss on a text, in nats per token."""
        chunks: list[LossSum] = fetched(self._chunks(self._losses, state, batch))
        return [
            mean_loss([unstack(chunk, trial) for chunk in chunks]) for trial in range(self.size)
        ]

    def trained(self, state: State, trial: int) -> Params:
        """The leaves of one trial that training may have changed, still on their devices."""
        return _wholes(self.trainer.trained(unstack(state, trial)))

    def saved(self, state: State, trial: int) -> Params:
        """What the next task of one trial goes on from: what has trained, and what is carried."""
        own = unstack(state, trial)
        carried = {CARRIED + path: leaf for path, leaf in self.trainer.carried(own).items()}
        return _wholes({**self.trainer.trained(own), **carried})

    def base_beside(self, trial: int) -> Params:
        """The base's leaves on the devices that run one trial; nothing is copied."""
        return _wholes(beside(self._base, self.mesh, trial))

    def _split(self, params: Params) -> Params:
        """The leaves of which the tables are to be split among devices along ``memory``."""
        return split_tables(params, self.mesh, self._table_layout, lambda path, _: is_pool(path))

    def _right(self, scored: int, sequences: int) -> Callable[[Shared, State, Batch], Array]:
        """Which sequences are answered, so many in a row at most, and targets of weight."""

        def right(shared: Shared, state: State, batch: Batch) -> Bool[Array, "b s"]:
            batch = own_rows(batch)
            asked, places = at_scored(batch, batch.weights, scored)
            logits = self.trainer.logits(shared, state, batch.tokens, batch.valid, places)
            return all_rows(exact_matches(logits, asked, sequences))

        return over_trials(right, self.mesh, (False, True, False))

    def _chunks(self, function: Callable[..., Any], state: State, batch: Batch) -> list[Any]:
        interrupts.check()

        def of(chunk: Batch) -> Any:
            shared = self._shared._replace(lower=replicate(self._probed_lower.of(chunk), self.mesh))
            return function(shared, state, replicate(chunk, self.mesh))

        return in_chunks(of, batch, self.eval_batch_size)


class _ProbedLower:
    """What no task changes, of the rows of probes: computed for the first trial that is asked."""

    def __init__(self, trainer: Trainer[Any], shared: Shared, mesh: Mesh) -> None:
        self._below = trainer.lower and jax.jit(trainer.lower)
        self._shared, self._mesh = shared, mesh
        self._kept: dict[bytes, np.ndarray] = {}  # ``(t, d)`` by what stands in a row, on the host

    def of(self, chunk: Batch) -> Lower | None:
        """That of some rows; ``None`` if nothing lies below, or there is no room to keep it."""
        if self._below is None:
            return None
        rows = zip(*map(np.asarray, (chunk.tokens, chunk.valid)), strict=True)
        keys = [tokens.tobytes() + valid.tobytes() for tokens, valid in rows]
        if not self._kept.keys() >= set(keys):
            found = np.asarray(self._below(self._shared, replicate(chunk, self._mesh)))
            # Copies, or a row would hold all of its chunk.
            new = {k: x.copy() for k, x in zip(keys, found, strict=True) if k not in self._kept}
            if sum(each.nbytes for of in (self._kept, new) for each in of.values()) > LOWER_BYTES:
                return None
            self._kept |= new
        hidden = np.stack([self._kept[key] for key in keys])
        return Lower(jnp.asarray(chunk.tokens), jnp.asarray(hidden))
