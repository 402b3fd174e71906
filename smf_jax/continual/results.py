"""A row of `results.jsonl`: the one schema in which results are written and read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from smf_jax.continual.trial import Trial
from smf_jax.evaluation.probe import Metric
from smf_jax.evaluation.probes.registry import find_metrics

Row = Mapping[str, Any]
# Keys of what is measured by a named probe, and of the same of the base.
PROBE, OF_BASE = "probe_", "_base"
# Of a kind of question, of the mean over the kinds, and of the base told the facts in its prompt.
KIND, STRICT, IN_CONTEXT = "asked_", "strict", "_in_context"


@dataclass(frozen=True)
class ResultRow:
    """What one task of one trial came to; docs/run_files.md explains the keys."""

    trial: Trial  # the cell of the grid; its fields stand in the row by their own names
    task: int  # from 0
    task_name: str  # of the stream
    facts: int  # of the task
    steps: int  # of the task
    seen: float  # accuracy on the task right after it, in paraphrases that it was trained in
    unseen: float  # the same in paraphrases that only other facts were trained in
    stream_seen: float  # the same as `seen`, over all tasks so far
    stream_unseen: float  # the same as `unseen`, over all tasks so far
    retention: list[float]  # `unseen` of each task so far
    ahead: float | None  # the same of the next task, before it is taught; ``None`` after the last
    unseen_base: float | None  # the same of this task, before the stream
    known: float | None  # accuracy on the first question probe, ``None`` without one
    known_base: float | None  # the same of the base
    text_loss: float | None  # loss on the first text probe, nats a token
    text_loss_base: float | None  # the same of the base
    loss_first: float  # training loss of the task's first step
    loss_last: float  # that of its last
    rows_selected: float | None  # rows written a step, mean; ``None`` for methods that select none
    rows_changed: int | None  # rows of the task's patch; ``None`` for methods without
    trainable_parameters: int  # numbers that a step may change
    trainable_share: float  # the same as a share of the model
    optimizer_bytes: int  # of the optimizer's state
    failed_step: int | None  # the first step that was not finite, ``None`` if all were
    # Of all other probes and of kinds of question, by key, and of the base, by key and ``_base``,
    # and with the facts in its prompt, by key and ``_in_context``.
    further: Mapping[str, float | None]
    seconds: float  # of the training

    def to_json(self) -> dict[str, Any]:
        """The row as it is written."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        del own["trial"], own["further"]
        seconds = own.pop("seconds")
        of_trial = {"trial": self.trial.id, **self.trial.to_row()}
        return {**of_trial, **own, **self.further, "seconds": seconds}

    @classmethod
    def from_json(cls, row: Row) -> ResultRow:
        """Reads what `to_json` wrote."""
        own = [field.name for field in fields(cls) if field.name not in ("trial", "further")]
        of_trial = [field.name for field in fields(Trial)]
        further = {key: row[key] for key in row if key not in (*own, *of_trial, "trial")}
        known: dict[str, Any] = {name: row.get(name) for name in own}
        return cls(trial=Trial.from_row(row), further=further, **known)


def probe_key(name: str, metric: str) -> str:
    """The key in `results.jsonl` of a metric of a named probe; the base's ends in ``_base``."""
    return f"{PROBE}{name}_{metric}"


def probe_keys(row: Row) -> list[str]:
    """The keys of the named probes of a row, but for those of the base."""
    return [key for key in row if key.startswith(PROBE) and key + OF_BASE in row]


def kind_keys(row: Row) -> list[str]:
    """The keys of the kinds of question of a row and of their mean, but for those of the base."""
    keys = [key for key in row if key.startswith(KIND) or key == STRICT]
    return [key for key in keys if key + OF_BASE in row]


def probe_metrics(row: Row, probes: str = "") -> dict[str, Metric]:
    """The metric behind each key of a named probe; `probes` is the run's ``--probes``, if known."""
    found = find_metrics((key.removeprefix(PROBE) for key in probe_keys(row)), probes)
    return {PROBE + key: metric for key, metric in found.items()}
