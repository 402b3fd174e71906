"""What the steps of a task have measured, which stays on the devices until it is asked for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from smf_jax.data.batching import Batch
from smf_jax.processes import fetched
from smf_jax.training.snapshot import Taken
from smf_jax.training.step import StepMetrics


class Begun(NamedTuple):
    """What a trial has come to within a task."""

    step: int  # steps done
    state: Taken  # what `Trainer.take` gives of it
    losses: Float[np.ndarray, " steps"]  # ``(step,)``
    selected: Int[np.ndarray, " steps"]  # ``(step,)`` rows written


class StepLog:
    """Losses and rows written, ``(trials, steps)``, whole after a `fetch`."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        """Of a task with such batches, ``(steps, b, t)`` fields by trial."""
        # By the steps done, tokens that are no pads.
        tokens = [np.cumsum(np.sum(batch.valid, axis=(1, 2))) for batch in batches]
        self._tokens = np.pad(np.stack(tokens), ((0, 0), (1, 0)))
        trials, self.steps = len(batches), batches[0].tokens.shape[0]
        self.losses = np.full((trials, self.steps), np.nan, np.float32)
        self.selected = np.zeros((trials, self.steps), np.int32)
        self._waiting: list[tuple[int, StepMetrics]] = []
        self._fetched = 0  # steps
        self._shown: tuple[int, float] | None = None  # steps done when last told, and when

    def add(self, position: int, measured: StepMetrics) -> None:
        """Notes a step, and waits for nothing."""
        self._waiting.append((position, measured))

    def put(self, place: int, begun: Begun) -> None:
        """Puts in what the first steps of a trial have measured before."""
        self.fetch()
        self.losses[place, : begun.step] = begun.losses
        self.selected[place, : begun.step] = begun.selected

    def fetch(self) -> None:
        """Waits for all that was noted."""
        found = fetched([measured for _, measured in self._waiting])
        for (position, _), step in zip(self._waiting, found, strict=True):
            self.losses[:, position], self.selected[:, position] = step.loss, step.selected
            self._fetched = position + 1
        self._waiting.clear()

    def lines(self) -> list[str]:
        """How each trial stands at the last step that is computed; waits for none.

        Nothing before the first is. The rate is that since this was asked before. Another thread
        than that of the steps may ask.
        """
        done, step = self._fetched, None
        for position, measured in reversed(self._waiting.copy()):
            arrays: list[Any] = list(measured)  # is_ready is missing in the types of jax.Array
            if all(array.is_ready() for array in arrays):
                done, step = position + 1, measured
                break
        if not done:
            return []
        last = (self.losses[:, done - 1], self.selected[:, done - 1]) if step is None else step
        losses, selected = (np.asarray(each) for each in last)
        before, now = self._shown, time.monotonic()
        self._shown = done, now
        lines = []
        for place, (loss, rows) in enumerate(zip(losses, selected, strict=True)):
            parts = [f"step {done:,} of {self.steps:,}", f"loss {loss:.4f}"]
            parts += [f"{rows:,} rows written"] if rows else []
            if before and now > before[1]:
                tokens = self._tokens[place, done] - self._tokens[place, before[0]]
                parts.append(f"{tokens / (now - before[1]):,.0f} tokens a second")
            lines.append(", ".join(parts))
        return lines
