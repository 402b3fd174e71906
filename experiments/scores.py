"""What is measured after each task, and the row of results that tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from experiments.config import SweepFlags
from experiments.grid import Trial
from experiments.materials import Materials, all_rows
from experiments.methods import Trains
from smf_jax.evaluation.answers import exact_match
from smf_jax.training.loop import TaskMetrics, TrialGroup

Scores = dict[str, Any]


def measure(group: TrialGroup, state: Any, materials: Materials, task: int | None) -> list[Scores]:
    """Every trial's probes: the tasks so far, and those that are no part of the stream."""
    scores: list[Scores] = [{} for _ in range(group.size)]
    if task is not None:
        probes = [*materials.seen[: task + 1], *materials.unseen[: task + 1]]
        right = group.answers(state, all_rows(probes))
        ends = np.cumsum([len(probe.question) for probe in probes])
        for place, score in enumerate(scores):
            parts = np.split(right[place], ends[:-1])
            matched = [exact_match(p, part) for p, part in zip(probes, parts, strict=True)]
            score["seen"], score["unseen"] = matched[: task + 1], matched[task + 1 :]
    for name, probe in materials.questions.items():
        right = group.answers(state, probe.batch)
        for place, score in enumerate(scores):
            score[f"question_{name}"] = exact_match(probe, right[place])
    for name, windows in materials.texts.items():
        for score, loss in zip(scores, group.text_losses(state, windows), strict=True):
            score[f"text_{name}"] = loss
    return scores


def result_row(
    flags: SweepFlags,
    materials: Materials,
    base_scores: Scores,
    trial: Trial,
    trains: Trains,
    task: int,
    metrics: TaskMetrics,
    place: int,
    scores: Scores,
) -> dict[str, Any]:
    """The row of one task of one trial; README.md lists the keys."""
    first_step = task * flags.steps_per_task if flags.keep_optimizer_state else 0
    failed = int(metrics.failed_step[place])
    row = {
        "trial": trial.id,
        **asdict(trial),
        "task": task,
        "task_name": materials.tasks[task].name,
        "facts": len(materials.tasks[task].facts),
        "steps": flags.steps_per_task,
        "seen": scores["seen"][task],
        "unseen": scores["unseen"][task],
        "stream_seen": float(np.mean(scores["seen"])),
        "stream_unseen": float(np.mean(scores["unseen"])),
        "retention": scores["unseen"],
        "known": None,
        "known_base": None,
        "text_loss": None,
        "text_loss_base": None,
        "loss_first": float(metrics.losses[place, 0]),
        "loss_last": float(metrics.losses[place, -1]),
        "rows_selected": float(metrics.selected[place].mean()) if trial.method == "smf" else None,
        "rows_changed": None,
        "trainable_parameters": trains.parameters,
        "trainable_share": trains.share,
        "optimizer_bytes": trains.optimizer_bytes,
        "failed_step": None if failed < 0 else failed - first_step,
    }
    for short, names, prefix in (
        ("known", materials.questions, "question"),
        ("text_loss", materials.texts, "text"),
    ):
        for number, name in enumerate(names):
            key = short if number == 0 else f"{prefix}_{name}"
            row[key] = scores[f"{prefix}_{name}"]
            row[f"{key}_base"] = base_scores[f"{prefix}_{name}"]
    return row


def result_line(row: Mapping[str, Any]) -> str:
    """One finished task, for the terminal."""
    parts = [
        f"{row['trial']} task {row['task'] + 1}:",
        f"learned {row['seen']:.1%} seen, {row['unseen']:.1%} unseen;",
        f"stream so far {row['stream_unseen']:.1%};",
    ]
    if row["known"] is not None:
        parts.append(f"known {row['known']:.1%};")
    if row["text_loss"] is not None:
        parts.append(f"text loss {row['text_loss']:.3f};")
    if row["rows_changed"] is not None:
        parts.append(f"{row['rows_changed']:,} rows;")
    if row["failed_step"] is not None:
        parts.append(f"FAILED at step {row['failed_step']};")
    return " ".join([*parts, f"{row['seconds']:.1f} s"])
