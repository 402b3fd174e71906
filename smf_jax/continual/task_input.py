"""What the trials of a group are taught a task with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from smf_jax.continual.methods.method import Method, Setup
from smf_jax.continual.stream_data import StreamData, chunked
from smf_jax.continual.trial import Trial
from smf_jax.data.batching import Batch


class TaskInput(NamedTuple):
    """What a task is taught with."""

    batches: list[Batch]  # ``(steps, b, t)`` fields, by trial
    examples: Batch  # the whole task, ``(chunks, b, t)`` fields
    rows: Batch | None  # what batches are dealt from, where that is not examples one by one


def task_input(
    method: Method[Any], setup: Setup, data: StreamData, trials: Sequence[Trial], task: int
) -> TaskInput:
    """What a task is taught with, in trials of one group side by side."""
    training = setup.training
    of_base = method.base_rows(setup.own, training.batch_size)
    batches = [
        data.batches(
            task,
            trial.seed,
            training.steps_per_task,
            training.batch_size - of_base,
            of_base,
            by_fact=trial.batch_order == "facts",
            earlier=method.earlier_share(setup.own),
        )
        for trial in trials
    ]
    examples = chunked(data.examples[task], training.batch_size)
    by_fact = trials[0].batch_order == "facts"  # as of all trials of a group
    rows = chunked(data.dealt(by_fact)[task].rows, training.batch_size) if data.pack else None
    return TaskInput(batches, examples, rows)
