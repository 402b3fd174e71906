"""What is measured after each task, and how a finished task is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from smf_jax.bases.base import Base
from smf_jax.continual.results import OF_BASE, PROBE, ResultRow, probe_key, probe_metrics
from smf_jax.continual.sections import ProbeConfig
from smf_jax.continual.stream_data import ASKED, StreamData, all_rows
from smf_jax.continual.trial_group import TrialGroup
from smf_jax.evaluation.in_context import in_context_probe
from smf_jax.evaluation.probe import refer_to_base
from smf_jax.evaluation.probes.exact import exact_match
from smf_jax.evaluation.probes.registry import Probes
from smf_jax.evaluation.scorer import Scorer
from smf_jax.params import Params
from smf_jax.progress import progress_bar, say

Scores = dict[str, Any]
# Of the base, a share for each task; in a row the task's own, with `unseen_` before it.
IN_CONTEXT = "in_context"


def measure(
    group: TrialGroup,
    state: Any,
    stream_data: StreamData,
    task: int | None,
    scorer: Scorer,
    whole_model: Callable[[Params, Params], Params],
) -> list[Scores]:
    """Every trial's probes: of the tasks, and those that are no part of the stream.

    The task is the last that was taught, ``None`` before the stream; `whole_model` makes the
    parameters of a model from those of the base and of a trial. ``seen`` and ``unseen`` are of the
    tasks so far, ``ahead`` of the next one, before the stream of all of them.
    """
    scores: list[Scores] = [{} for _ in range(group.size)]
    taught = 0 if task is None else task + 1
    ahead = stream_data.unseen[taught : None if task is None else taught + 1]
    probes = [*stream_data.seen[:taught], *stream_data.unseen[:taught], *ahead]
    right = group.answers(state, all_rows(probes))
    ends = np.cumsum([len(probe.question) for probe in probes])
    for place, score in enumerate(scores):
        parts = np.split(right[place], ends[:-1])
        matched = [exact_match(p, part) for p, part in zip(probes, parts, strict=True)]
        score["seen"], score["unseen"] = matched[:taught], matched[taught : 2 * taught]
        score["ahead"] = matched[2 * taught :]
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
        params = whole_model(group.base_beside(place), trained)
        for name, probe in stream_data.named.items():
            for metric, value in probe.measure(scorer, params).items():
                score[probe_key(name, metric)] = value
    return scores


def measure_base(base: Base, stream_data: StreamData, scorer: Scorer) -> Scores:
    """What `measure` finds before the stream, of a model that no trial begins from."""
    asked = all_rows(stream_data.unseen)
    ends = np.cumsum([len(probe.question) for probe in stream_data.unseen])
    parts = np.split(scorer.score(base.params, asked).greedy, ends[:-1])
    matched = [exact_match(p, part) for p, part in zip(stream_data.unseen, parts, strict=True)]
    found: Scores = {"seen": [], "unseen": [], "ahead": matched}
    refer_to_base(stream_data.named, scorer, base.params)
    probes = Probes(dict(stream_data.questions), dict(stream_data.texts), dict(stream_data.named))
    with progress_bar(len(probes.whole()), "probes of the base", "probe") as progress:
        for done, (name, probe) in enumerate(probes.whole().items(), 1):
            values = probe.measure(scorer, base.params)
            if name in probes.named:
                found |= {probe_key(name, metric): value for metric, value in values.items()}
            else:
                kind = "question" if name in probes.questions else "text"
                (found[f"{kind}_{name}"],) = values.values()
            progress(done)
    return found


def measure_in_context(
    config: ProbeConfig, base: Base, stream_data: StreamData, scorer: Scorer
) -> Scores:
    """What the base answers of each task with its facts in the prompt, where that is wanted.

    The share of exact answers by task, ``None`` where a task's facts fit into no prompt.
    """
    if not config.in_context:
        return {}
    positions, steps = base.config.max_positions, config.probe_answer_tokens
    found: list[float | None] = []
    with progress_bar(len(stream_data.tasks), "facts in the prompt", "task") as progress:
        for task in stream_data.tasks:
            probe = in_context_probe(base.tokenizer, task.facts, ASKED, positions, steps)
            found.append(None if probe is None else probe.measure(scorer, base.params)["exact"])
            progress(len(found))
    if (lacking := found.count(None)) > 0:
        say(
            f"--in_context: the facts of {lacking} of {len(found)} tasks and a question are more "
            f"than the model's {positions} tokens; lower --facts_per_task to have them measured"
        )
    return {IN_CONTEXT: found}


def probe_columns(
    stream_data: StreamData, scores: Scores, base_scores: Scores
) -> dict[str, float | None]:
    """The columns of all probes beside the stream, each with that of the base.

    The first question probe is ``known``, the first text probe ``text_loss``; both are there in
    every run, ``None`` without such a probe.
    """
    found: dict[str, float | None] = dict.fromkeys(
        ("known", "known_base", "text_loss", "text_loss_base")
    )
    for short, names, prefix in (
        ("known", stream_data.questions, "question"),
        ("text_loss", stream_data.texts, "text"),
    ):
        for number, name in enumerate(names):
            key = short if number == 0 else f"{prefix}_{name}"
            found[key] = scores[f"{prefix}_{name}"]
            found[f"{key}_base"] = base_scores[f"{prefix}_{name}"]
    for key in (key for key in scores if key.startswith(PROBE)):
        found[key], found[key + OF_BASE] = scores[key], base_scores[key]
    return found


def result_line(row: ResultRow) -> str:
    """One finished task, for the terminal."""
    parts = [
        f"{row.trial.id} task {row.task + 1}:",
        f"learned {row.seen:.1%} seen, {row.unseen:.1%} unseen;",
        f"stream so far {row.stream_unseen:.1%};",
    ]
    if row.known is not None:
        parts.append(f"known {row.known:.1%};")
    if row.text_loss is not None:
        parts.append(f"text loss {row.text_loss:.3f};")
    further = row.further
    shown = [key for key, metric in probe_metrics(further).items() if metric.headline]
    parts += [f"{key.removeprefix(PROBE)} {further[key]:.3f};" for key in shown]
    if row.rows_changed is not None:
        parts.append(f"{row.rows_changed:,} rows;")
    if row.failed_step is not None:
        parts.append(f"FAILED at step {row.failed_step};")
    return " ".join([*parts, f"{row.seconds:.1f} s"])
