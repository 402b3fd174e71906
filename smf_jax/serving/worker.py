"""The thread that computes: jobs wait in line, those of one set and shape run together.

Batches of several sets take turns, a few tokens each, so that a long answer holds nobody up. What
is held at once is bounded: jobs that wait, batches that run, and tokens in their caches.
"""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from smf_jax.bases.base import Base
from smf_jax.data.batching import pad_pairs
from smf_jax.models.generate import left_pad
from smf_jax.serving import decoding
from smf_jax.serving.jobs import (
    Done,
    Failed,
    Generation,
    Job,
    ReadWeights,
    Scored,
    Scoring,
    Token,
    Tokens,
    Tracing,
)
from smf_jax.taught.provenance import Reads, provenance

BATCHES = 4  # that take turns
CHUNK = 8  # tokens of a turn
MOST_OTHERS = 20  # alternatives of a token
_SHORTEST = 32  # tokens that prompts are padded to at least
_CACHED = 4096  # tokens in the cache of a batch, a lone prompt's aside
_SCORED = 4096  # tokens that are scored at once, a lone text's aside


class Busy(Exception):
    """More waits in line than may."""


class Worker:
    """Runs jobs on a thread of its own."""

    def __init__(self, base: Base, rows: int, queue: int) -> None:
        """Starts the thread; ``rows`` of a batch at most, ``queue`` jobs that wait."""
        self._model, self._rows, self._queue = base.model, rows, queue
        self._positions = base.config.max_positions
        self._pad = base.tokenizer.pad
        self._stops = frozenset(base.tokenizer.stops)
        self._ends = np.isin(np.arange(base.config.vocabulary), list(self._stops))
        self._reads = Reads(base.model) if base.config.memory is not None else None
        self._waiting: deque[Job] = deque()
        self._changed, self._closed = threading.Condition(), False
        self._batches: list[_Batch] = []
        self._thread = threading.Thread(target=self._run, name="smf serve", daemon=True)
        self._thread.start()

    @property
    def capacity(self) -> int:
        """Jobs that may wait."""
        return self._queue

    @property
    def load(self) -> int:
        """Jobs that wait or run and that somebody waits for."""
        with self._changed:
            running = [batch.jobs[row] for batch in self._batches for row in batch.left]
            return sum(not job.gone for job in [*self._waiting, *running])

    def submit(self, jobs: Sequence[Job]) -> None:
        """Puts jobs in line, all or none of them; `Busy` if there is no room."""
        with self._changed:
            if self._closed:
                raise Busy("the server is closing")
            self._waiting = deque(job for job in self._waiting if not job.gone)
            if len(self._waiting) + len(jobs) > self._queue:
                raise Busy(f"{len(self._waiting)} prompts wait already")
            self._waiting.extend(jobs)
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread; jobs that are not done fail."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._batches or self._closed):
                    self._changed.wait()
                if self._closed:
                    break
                chosen = self._next() if len(self._batches) < BATCHES else []
            if chosen:
                self._guard(chosen, lambda chosen=chosen: self._begin(chosen))
            for batch in list(self._batches):
                if not self._guard(batch.jobs, lambda batch=batch: self._advance(batch)):
                    self._batches.remove(batch)
        for job in [*self._waiting, *(job for batch in self._batches for job in batch.jobs)]:
            job.tell(Failed("the server is closing"))

    def _guard(self, jobs: Sequence[Job], step: Callable[[], None]) -> bool:
        """Does a step; where it fails its jobs do, and the server goes on."""
        try:
            step()
            return True
        except Exception as error:  # whatever it is, the others are not to blame
            traceback.print_exc()
            for job in jobs:
                job.tell(Failed(f"{type(error).__name__}: {error}"))
            return False

    def _next(self) -> list[Job]:
        """Takes the job that has waited longest, and those that can run with it."""
        while self._waiting and self._waiting[0].gone:
            self._waiting.popleft()
        if not self._waiting:
            return []
        key, rows = self._key(self._waiting[0]), self._rows_of(self._waiting[0])
        chosen = [job for job in self._waiting if not job.gone and self._key(job) == key][:rows]
        taken = set(map(id, chosen))
        self._waiting = deque(job for job in self._waiting if id(job) not in taken)
        return chosen

    def _key(self, job: Job) -> tuple:
        """What jobs of one batch have in common."""
        return (type(job), id(job.patch_set), self._length(job), self._places(job), job.others)

    def _length(self, job: Job) -> int:
        """The tokens that a prompt is padded to: few shapes are compiled."""
        needed, length = len(job.ids) - isinstance(job, Scoring), _SHORTEST
        while length < needed:
            length *= 2
        room = self._positions - (job.limit if isinstance(job, Generation) else 0)
        return max(needed, min(length, room))

    def _places(self, job: Job) -> int:
        """The tokens that a cache has room for."""
        if not isinstance(job, Generation):
            return 0
        places = 2 * _SHORTEST
        while places < self._length(job) + job.limit:
            places *= 2
        return min(places, self._positions)

    def _rows_of(self, job: Job) -> int:
        if isinstance(job, Tracing):
            return 1
        most = _CACHED // self._places(job) if isinstance(job, Generation) else 0
        most = most or _SCORED // self._length(job)
        return max(1, min(self._rows, most))

    def _begin(self, jobs: list[Job]) -> None:
        first = jobs[0]
        # A lone prompt does not pay for a whole batch.
        rows = 1 if len(jobs) == 1 else self._rows_of(first)
        if isinstance(first, Tracing):
            self._trace(first)
        elif isinstance(first, Scoring):
            self._score(jobs, rows)
        else:
            self._start([job for job in jobs if isinstance(job, Generation)], rows)

    def _trace(self, job: Job) -> None:
        patches = job.patch_set.patches
        if not patches or self._reads is None:
            job.tell(ReadWeights(0.0, (0.0,) * len(patches)))
            return
        found = provenance(self._reads.of(job.patch_set.params, job.ids), patches)
        job.tell(ReadWeights(*found))

    def _score(self, jobs: list[Job], rows: int) -> None:
        length = self._length(jobs[0])
        pairs = [(job.ids[:1], job.ids[1:]) for job in jobs]
        pairs += pairs[:1] * (rows - len(jobs))
        batch = pad_pairs(pairs, length, self._pad)
        told = decoding.score(
            self._model,
            jobs[0].patch_set.params,
            batch.tokens,
            batch.targets,
            batch.valid,
            _told(jobs[0].others),
        )
        told = jax.device_get(told)
        for row, job in enumerate(jobs):
            job.tell(Scored(_tokens(told, row, len(job.ids) - 1, job.others)))

    def _start(self, jobs: list[Generation], rows: int) -> None:
        given = [*jobs, *[None] * (rows - len(jobs))]
        length = self._length(jobs[0])
        ids = [jobs[0].ids if job is None else job.ids for job in given]
        tokens, valid = left_pad(ids, self._pad, length)
        seeds = np.array([0 if job is None else job.seed for job in given], np.uint32)
        how = decoding.Rows(
            jnp.array([0 if job is None else job.limit for job in given], jnp.int32),
            jnp.array([0 if job is None else job.temperature for job in given], jnp.float32),
            jax.vmap(jax.random.key)(seeds),
        )
        others = _told(jobs[0].others)
        places = self._places(jobs[0])
        params = jobs[0].patch_set.params
        state, told = decoding.start(
            self._model, params, tokens, valid, self._ends, how, places, others
        )
        batch = _Batch(jobs, state, how, rows)
        self._deliver(batch, told)
        if batch.left:
            self._batches.append(batch)

    def _advance(self, batch: _Batch) -> None:
        gone = np.ones(batch.rows, bool)
        for row in list(batch.left):
            if batch.jobs[row].gone:
                batch.left.remove(row)
        gone[list(batch.left)] = False
        if batch.left:
            first = batch.jobs[0]
            batch.state, told = decoding.go_on(
                self._model,
                first.patch_set.params,
                batch.state,
                gone,
                self._ends,
                batch.how,
                CHUNK,
                _told(first.others),
            )
            self._deliver(batch, told)
        if not batch.left:
            self._batches.remove(batch)

    def _deliver(self, batch: _Batch, told: decoding.Told) -> None:
        """Tells every row its new tokens, up to its end."""
        told = jax.device_get(told)
        for row in list(batch.left):
            job = batch.jobs[row]
            room = job.limit - batch.sent[row]
            ids = told.tokens[row].tolist()[:room]
            end = next((place for place, token in enumerate(ids) if token in self._stops), None)
            count = len(ids) if end is None else end
            batch.sent[row] += count
            tokens = _tokens(told, row, min(count + 1, len(ids)), job.others)
            if count:
                job.tell(Tokens(tokens[:count]))
            if end is not None or batch.sent[row] >= job.limit:
                batch.left.remove(row)
                job.tell(Done("length") if end is None else Done("stop", tokens[end]))


class _Batch:
    """Prompts of one set that are decoded together."""

    def __init__(
        self, jobs: list[Generation], state: decoding.State, how: decoding.Rows, rows: int
    ) -> None:
        self.jobs, self.state, self.how, self.rows = jobs, state, how, rows
        self.sent = [0] * len(jobs)
        self.left = set(range(len(jobs)))  # rows that are not done


def _told(others: int) -> int:
    """Alternatives that a program computes: few programs are compiled."""
    return others if others <= 1 else MOST_OTHERS


def _tokens(told: decoding.Told, row: int, count: int, others: int) -> list[Token]:
    fields = (field[row, :count].tolist() for field in told)
    found = []
    for token, log, ids, logs in zip(*fields, strict=True):
        pairs = zip(ids[:others], logs[:others], strict=True)
        found.append(Token(token, log, tuple(pairs)))
    return found
