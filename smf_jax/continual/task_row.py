"""The row of `results.jsonl` that one task of one trial comes to."""

from __future__ import annotations

import numpy as np

from smf_jax.continual.methods.method import TrainableSummary
from smf_jax.continual.results import ResultRow
from smf_jax.continual.scores import Scores, probe_columns
from smf_jax.continual.sections import TrainingConfig
from smf_jax.continual.stream_data import StreamData
from smf_jax.continual.trial import Trial
from smf_jax.continual.trial_group import TaskMetrics


def task_row(
    trial: Trial,
    place: int,
    task: int,
    data: StreamData,
    training: TrainingConfig,
    trains: TrainableSummary,
    *,
    metrics: TaskMetrics,
    scores: Scores,
    base_scores: Scores,
    seconds: float,
) -> ResultRow:
    """The row of a task, whose checkpoint is yet to be written: ``rows_changed`` is ``None``.

    Args:
        trial: the cell of the grid.
        place: of the trial among those that run side by side.
        task: from 0.
        data: the stream and the probes beside it.
        training: of the trial.
        trains: what the trial trains.
        metrics: of the task's steps, of all of them.
        scores: what was measured after the task, of this trial.
        base_scores: the same of the untouched base.
        seconds: of the training.
    """
    first_step = task * training.steps_per_task if training.keep_optimizer_state else 0
    failed = int(metrics.failed_step[place])
    selected = float(metrics.selected[place].mean()) if trial.is_sparse else None
    columns = probe_columns(data, scores, base_scores, task)
    return ResultRow(
        trial=trial,
        task=task,
        task_name=data.tasks[task].name,
        facts=len(data.tasks[task].facts),
        steps=training.steps_per_task,
        seen=scores["seen"][task],
        unseen=scores["unseen"][task],
        stream_seen=float(np.mean(scores["seen"])),
        stream_unseen=float(np.mean(scores["unseen"])),
        retention=scores["unseen"],
        ahead=next(iter(scores["ahead"]), None),
        unseen_base=base_scores["ahead"][task],
        known=columns.pop("known"),
        known_base=columns.pop("known_base"),
        text_loss=columns.pop("text_loss"),
        text_loss_base=columns.pop("text_loss_base"),
        loss_first=float(metrics.losses[place, 0]),
        loss_last=float(metrics.losses[place, -1]),
        rows_selected=selected,
        rows_changed=None,
        trainable_parameters=trains.parameters,
        trainable_share=trains.share,
        optimizer_bytes=trains.optimizer_bytes,
        failed_step=None if failed < 0 else failed - first_step,
        further=columns,
        seconds=seconds,
    )
