"""What is measured after each task, and the row of results that tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from smf_jax.continual.config import SweepFlags
from smf_jax.continual.grid import Trial
from smf_jax.continual.methods import TrainableSummary, apply_trained
from smf_jax.continual.stream_data import StreamData, all_rows
from smf_jax.continual.trial_group import TaskMetrics, TrialGroup
from smf_jax.evaluation.probe import Metric
from smf_jax.evaluation.probes.exact import exact_match
from smf_jax.evaluation.probes.registry import find_metrics
from smf_jax.evaluation.scorer import Scorer

Scores = dict[str, Any]

PROBE, OF_BASE = "probe_", "_base"


def measure(
    group: TrialGroup,
    state: Any,
    stream_data: StreamData,
    task: int | None,
    scorer: Scorer,
    lora_alpha: float,
) -> list[Scores]:
    """Every trial's probes: the tasks so far, and those that are no part of the stream.

    Args:
      group: of the trials.
      state: stacked.
      stream_data: with the probes.
      task: the last that was taught, ``None`` before the stream.
      scorer: of the base's architecture, for the probes that are named by their kind.
      lora_alpha: scale of the adapters, if that is what was trained.
    """
    scores: list[Scores] = [{} for _ in range(group.size)]
    if task is not None:
        probes = [*stream_data.seen[: task + 1], *stream_data.unseen[: task + 1]]
        right = group.answers(state, all_rows(probes))
        ends = np.cumsum([len(probe.question) for probe in probes])
        for place, score in enumerate(scores):
            parts = np.split(right[place], ends[:-1])
            matched = [exact_match(p, part) for p, part in zip(probes, parts, strict=True)]
            score["seen"], score["unseen"] = matched[: task + 1], matched[task + 1 :]
    for name, probe in stream_data.questions.items():
        right = group.answers(state, probe.batch)
        for place, score in enumerate(scores):
            score[f"question_{name}"] = exact_match(probe, right[place])
    for name, windows in stream_data.texts.items():
        for score, loss in zip(scores, group.text_losses(state, windows), strict=True):
            score[f"text_{name}"] = loss
    for place, score in enumerate(scores if stream_data.named else ()):
        # One model after the other: a method's leaves and its merged adapters are dropped again.
        trained = group.trained(state, place)
        params = apply_trained(group.base_beside(place), trained, lora_alpha)
        for name, probe in stream_data.named.items():
            for metric, value in probe.measure(scorer, params).items():
                score[probe_key(name, metric)] = value
    return scores


def probe_key(name: str, metric: str) -> str:
    """The key in `results.jsonl` of a metric of a named probe; the base's ends in ``_base``."""
    return f"{PROBE}{name}_{metric}"


def probe_keys(row: Mapping[str, Any]) -> list[str]:
    """The keys of the named probes of a row, but for those of the base."""
    return [key for key in row if key.startswith(PROBE) and key + OF_BASE in row]


def probe_metrics(row: Mapping[str, Any], probes: str = "") -> dict[str, Metric]:
    """The metric behind each key of a row that is one of a named probe.

    Args:
      row: of `results.jsonl`.
      probes: the value of ``--probes`` that the run was given, where it is known.
    """
    found = find_metrics((key.removeprefix(PROBE) for key in probe_keys(row)), probes)
    return {PROBE + key: metric for key, metric in found.items()}


def result_row(
    flags: SweepFlags,
    stream_data: StreamData,
    base_scores: Scores,
    trial: Trial,
    trains: TrainableSummary,
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
        "task_name": stream_data.tasks[task].name,
        "facts": len(stream_data.tasks[task].facts),
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
        ("known", stream_data.questions, "question"),
        ("text_loss", stream_data.texts, "text"),
    ):
        for number, name in enumerate(names):
            key = short if number == 0 else f"{prefix}_{name}"
            row[key] = scores[f"{prefix}_{name}"]
            row[f"{key}_base"] = base_scores[f"{prefix}_{name}"]
    for key in (key for key in scores if key.startswith(PROBE)):
        row[key], row[key + OF_BASE] = scores[key], base_scores[key]
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
    shown = [key for key, metric in probe_metrics(row).items() if metric.headline]
    parts += [f"{key.removeprefix(PROBE)} {row[key]:.3f};" for key in shown]
    if row["rows_changed"] is not None:
        parts.append(f"{row['rows_changed']:,} rows;")
    if row["failed_step"] is not None:
        parts.append(f"FAILED at step {row['failed_step']};")
    return " ".join([*parts, f"{row['seconds']:.1f} s"])
