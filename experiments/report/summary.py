"""What a sweep came to: from the rows of `results.jsonl` to numbers that can be compared.

A row is a task of a trial, an outcome a trial, a setting its mean over seeds, and a sweep the
settings that differ in the learning rate alone: a curve of the frontier.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from operator import attrgetter
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from experiments.report.transfer import (
    accuracy_matrix,
    backward_transfer,
    first_kept,
    forward_transfer,
    gain,
    mean_forgetting,
    stream_average,
)
from smf_jax.continual.methods import METHODS
from smf_jax.continual.results import IN_CONTEXT, OF_BASE, kind_keys, probe_keys, probe_metrics
from smf_jax.continual.trial import Trial
from smf_jax.evaluation.probe import Metric

Row = Mapping[str, Any]
Matrix = Float[np.ndarray, "tasks tasks"]

METRICS = ("learned_seen", "learned_unseen", "end_seen", "end_unseen", "known_kept")
METRICS += ("known_forgotten", "text_loss_change", "rows_changed", "seconds")
# Of the stream as a whole; `transfer` and docs/metrics.md define them.
TRANSFERS = ("stream_average", "backward_transfer", "forward_transfer", "forgetting")
TRANSFERS += ("gain", "drop", "first_tenth_kept", "first_fifth_kept")
METRICS += TRANSFERS


@dataclass(frozen=True)
class Outcome:
    """What one trial came to; NaN where not measured.

    Accuracies are shares from 0 to 1, in paraphrases that a fact was trained in (`seen`) or not.
    """

    trial: Trial
    tasks: int  # of the stream that it finished
    failed: str  # where, as in `task 3, step 17`, or empty
    learned_seen: float  # accuracy on each task right after it, mean over tasks
    learned_unseen: float
    end_seen: float  # accuracy over all tasks after the last
    end_unseen: float
    known_kept: float  # accuracy on the known facts after the last task over that of the base
    stream_average: float  # unseen, on all tasks so far, mean over the stream
    backward_transfer: float
    forward_transfer: float
    forgetting: float
    gain: float
    drop: float  # of accuracies beside the stream, from before it to its end, mean over probes
    first_tenth_kept: float  # of the accuracy on the first tasks right after them, at the end
    first_fifth_kept: float
    text_loss_change: float  # rise of the loss on neutral text, in nats a token
    rows_changed: float  # rows of the table that a task changed, mean over tasks
    trainable_parameters: float
    trainable_share: float  # of the model
    optimizer_bytes: float
    seconds: float  # of all tasks
    unseen_base: float  # accuracy of the untouched base, unseen, mean over tasks
    unseen_in_context: float  # the same with a task's facts in its prompt
    retention: tuple[tuple[float, ...], ...]  # accuracy, unseen, on every task so far, by task
    probes: Mapping[str, float]  # named, and kinds of question, after the last task, by row key
    probe_bases: Mapping[str, float]
    kinds_in_context: Mapping[str, float]  # with a task's facts in its prompt, mean over tasks
    metrics: Mapping[str, Metric]  # what these keys measure, where that is known

    @property
    def known_forgotten(self) -> float:
        """The relative drop on the known facts."""
        return 1 - self.known_kept

    @property
    def untrained(self) -> dict[str, float]:
        """What is no method, by name: accuracy, unseen, as far as it was measured."""
        found = {"base": self.unseen_base, "facts in the prompt": self.unseen_in_context}
        return {name: score for name, score in found.items() if not np.isnan(score)}

    def worsened(self, probe: str) -> float:
        """How much a named probe got worse, relative to the base; NaN where that had nothing."""
        return self.metrics[probe].worsened(self.probe_bases[probe], self.probes[probe])


@dataclass(frozen=True)
class Setting:
    """The mean over the seeds of one setting, by metric or key of a named probe."""

    trial: Trial  # with the first of the seeds
    outcomes: tuple[Outcome, ...]
    mean: Mapping[str, float]
    interval: Mapping[str, float]  # half the width of the 95 % one (Student's t), NaN for one seed

    @property
    def balance(self) -> float:
        """Harmonic mean of the new facts known at the end and the known kept, or the new alone."""
        learned, kept = self.mean["end_unseen"], self.mean["known_kept"]
        if np.isnan(kept):
            return learned
        return 2 * learned * kept / (learned + kept) if learned + kept else 0.0


def summarise(rows: Iterable[Row], probes: str = "") -> tuple[Outcome, ...]:
    """Sum up each trial of a run, whose `--probes` are given where they are known.

    The last of repeated rows counts; where one is missing the trial ends before it. The order is by
    method, the unknown ones last, rule and the like, then budget, learning rate and seed as
    numbers, whichever was run first.
    """
    trials: dict[str, dict[int, Row]] = {}
    for row in rows:
        trials.setdefault(row["trial"], {})[row["task"]] = row
    whole = [
        [tasks[i] for i in takewhile(tasks.__contains__, count())] for tasks in trials.values()
    ]
    outcomes = [_outcome(of_trial, probes) for of_trial in whole if of_trial]
    return tuple(sorted(outcomes, key=lambda outcome: _place(outcome.trial)))


def _place(trial: Trial) -> tuple[Any, ...]:
    known = [*METHODS, trial.method].index(trial.method)
    kind = (trial.rule or "", trial.granularity or "", trial.optimizer, trial.batch_order)
    kind += (trial.varied,)
    return (known, trial.method, *kind, trial.slots or 0, trial.learning_rate, trial.seed)


def _known_kept(row: Row, metrics: Mapping[str, Metric]) -> float:
    """Accuracy on what was known before over that of the base, of whichever probe asks it.

    That is the first probe of questions in paraphrases, or the first of what the base can answer.
    """
    asked = [key for key, metric in metrics.items() if metric.name == "kept"]
    key = "known" if row["known"] is not None or not asked else asked[0]
    before = _number(row[key + OF_BASE])
    return _number(row[key]) / before if before else float("nan")


def _outcome(rows: Sequence[Row], probes: str) -> Outcome:
    """Sum up the rows of one trial, in the order of its tasks."""
    last, failed = rows[-1], [row for row in rows if row["failed_step"] is not None]
    retention = tuple(tuple(map(_number, row["retention"] or ())) for row in rows)
    ahead, before = ([_number(row.get(key)) for row in rows] for key in ("ahead", "unseen_base"))
    accuracy, metrics = accuracy_matrix(retention, ahead, before), probe_metrics(last, probes)
    asked = (*probe_keys(last), *kind_keys(last))
    return Outcome(
        trial=Trial.from_row(last),
        tasks=len(rows) - len(failed),
        failed="task {task}, step {failed_step}".format_map(failed[0]) if failed else "",
        learned_seen=_mean(rows, "seen"),
        learned_unseen=_mean(rows, "unseen"),
        end_seen=_number(last["stream_seen"]),
        end_unseen=_number(last["stream_unseen"]),
        known_kept=_known_kept(last, metrics),
        stream_average=stream_average(accuracy),
        backward_transfer=backward_transfer(accuracy),
        forward_transfer=forward_transfer(accuracy),
        forgetting=mean_forgetting(accuracy),
        gain=gain(accuracy),
        drop=_drop(last, metrics),
        first_tenth_kept=first_kept(accuracy, 0.1),
        first_fifth_kept=first_kept(accuracy, 0.2),
        text_loss_change=_number(last["text_loss"]) - _number(last["text_loss_base"]),
        rows_changed=_mean(rows, "rows_changed"),
        trainable_parameters=_number(last["trainable_parameters"]),
        trainable_share=_number(last["trainable_share"]),
        optimizer_bytes=_number(last["optimizer_bytes"]),
        seconds=sum(_number(row["seconds"]) for row in rows),
        unseen_base=float(np.mean(before)),
        unseen_in_context=_told(rows, "unseen"),
        retention=retention,
        probes={key: _number(last[key]) for key in asked},
        probe_bases={key: _number(last[key + OF_BASE]) for key in asked},
        kinds_in_context={key: _told(rows, key) for key in kind_keys(last)},
        metrics=metrics,
    )


def _drop(row: Row, metrics: Mapping[str, Metric]) -> float:
    """Mean over the probes that give an accuracy of what it was before less what it is now."""
    named = [key for key, metric in metrics.items() if metric.headline and metric.is_share]
    asked = [key for key in row if key.startswith("question_") and key + OF_BASE in row]
    falls = [_number(row[key + OF_BASE]) - _number(row[key]) for key in ("known", *asked, *named)]
    measured = [fall for fall in falls if not np.isnan(fall)]
    return float(np.mean(measured)) if measured else float("nan")


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _mean(rows: Sequence[Row], key: str) -> float:
    return float(np.mean([_number(row[key]) for row in rows]))


def _told(rows: Sequence[Row], key: str) -> float:
    """The mean of what the base says with a task's facts in its prompt; NaN where nothing is."""
    return float(np.mean([_number(row.get(key + IN_CONTEXT)) for row in rows]))


def finished(trials: Iterable[Outcome]) -> tuple[Outcome, ...]:
    """Return the trials that did not fail and saw as many tasks as any other that did not."""
    trials = tuple(trials)
    tasks = last_task(trials)
    return tuple(o for o in trials if o.tasks == tasks and not o.failed)


def last_task(trials: Iterable[Outcome]) -> int:
    """How many tasks the furthest trial has seen of those that did not fail."""
    return max((outcome.tasks for outcome in trials if not outcome.failed), default=0)


def average(trials: Iterable[Outcome]) -> tuple[Setting, ...]:
    """Average finished trials that differ in the seed alone, in the order in which they appear."""
    return tuple(map(_setting, grouped(trials, "trial.setting").values()))


def grouped(items: Iterable[Any], key: str) -> dict[Any, list[Any]]:
    """Gather what has one value of an attribute, in the order in which the values appear."""
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(attrgetter(key)(item), []).append(item)
    return groups


def _setting(group: Sequence[Outcome]) -> Setting:
    values = {name: np.array([getattr(outcome, name) for outcome in group]) for name in METRICS}
    values |= {key: np.array([o.probes.get(key, np.nan) for o in group]) for key in group[0].probes}
    return Setting(
        trial=group[0].trial,
        outcomes=tuple(group),
        mean={name: float(value.mean()) for name, value in values.items()},
        interval={name: half_width(value) for name, value in values.items()},
    )


def half_width(values: Float[np.ndarray, "n"]) -> float:
    """Half the width of the 95 % interval of a mean: t(0.975, n - 1) · s / √n."""
    n = len(values)
    if n < 2:
        return float("nan")
    return float(stdtrit(n - 1, 0.975) * values.std(ddof=1) / np.sqrt(n))


def sweeps(averages: Iterable[Setting]) -> dict[str, tuple[Setting, ...]]:
    """Gather the settings that differ in the learning rate alone, by rising rate."""
    curves, rate = grouped(averages, "trial.sweep"), attrgetter("trial.learning_rate")
    return {name: tuple(sorted(curve, key=rate)) for name, curve in curves.items()}


def curve_labels(curves: Mapping[str, Sequence[Setting]]) -> dict[str, str]:
    """Name each curve by its method, its budget, and what tells it from the method's others."""
    labels = {}
    for name, curve in curves.items():
        trial = curve[0].trial
        others = [c[0].trial for c in curves.values() if c[0].trial.method == trial.method]
        parts = [trial.method]
        for field in ("rule", "granularity", "optimizer", "batch_order"):
            if len({getattr(other, field) for other in others}) > 1:
                parts.append(getattr(trial, field))
        parts += [f"{flag}={value}" for flag, value in trial.varied]
        if trial.slots is not None:
            parts.append(f"budget {trial.slots}")
        labels[name] = ", ".join(parts)
    return labels


def best(averages: Iterable[Setting]) -> Setting:
    """Return the setting of the highest balance, the first of equals."""
    return max(averages, key=attrgetter("balance"))


def forgetting(averages: Sequence[Setting]) -> tuple[str, str]:
    """Return the measure of forgetting that every setting has, and its label."""
    if any(np.isnan(setting.mean["known_forgotten"]) for setting in averages):
        return "text_loss_change", "rise of the loss on neutral text"
    return "known_forgotten", "known facts forgotten"


def retention_matrix(setting: Setting) -> Matrix:
    """Accuracy on the column's task after the row's, mean over seeds; NaN above the diagonal."""
    tasks = max(len(outcome.retention) for outcome in setting.outcomes)
    matrices = np.full((len(setting.outcomes), tasks, tasks), np.nan)
    for matrix, outcome in zip(matrices, setting.outcomes, strict=True):
        for now, accuracies in enumerate(outcome.retention):
            matrix[now, : len(accuracies)] = accuracies
    return matrices.mean(axis=0)
