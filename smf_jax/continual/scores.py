"""What is measured after each task, and how a finished task is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from smf_jax.bases.base import Base
from smf_jax.continual.answering import Answering
from smf_jax.continual.kinds import kind_columns
from smf_jax.continual.results import (
    IN_CONTEXT,
    KIND,
    OF_BASE,
    PROBE,
    STRICT,
    ResultRow,
    probe_key,
    probe_metrics,
)
from smf_jax.continual.sections import ProbeConfig
from smf_jax.continual.stream_data import ASKED, StreamData
from smf_jax.continual.trial_group import TrialGroup
from smf_jax.evaluation.in_context import exact_shares, in_context_probe, unseen_questions
from smf_jax.evaluation.probe import refer_to_base
from smf_jax.evaluation.probes.exact import ExactProbe, all_rows, answered_shares
from smf_jax.evaluation.probes.registry import Probes
from smf_jax.evaluation.scorer import Scorer
from smf_jax.params import Params
from smf_jax.progress import progress_bar, say

Scores = dict[str, Any]
# Shares of the base with a task's facts in its prompt, by task, in unseen paraphrases.
TOLD = "in_context"


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
    tasks so far, ``ahead`` of the next one, before the stream of all of them; ``asked_KIND`` is
    of the tasks so far, before the stream of all.
    """
    scores: list[Scores] = [{} for _ in range(group.size)]
    taught = 0 if task is None else task + 1
    ahead = stream_data.unseen[taught : None if task is None else taught + 1]
    probes = [*stream_data.seen[:taught], *stream_data.unseen[:taught], *ahead]
    answering = stream_data.answering
    for score, matched in zip(scores, answering.shares(group, state, probes), strict=True):
        score["seen"], score["unseen"] = matched[:taught], matched[taught : 2 * taught]
        score["ahead"] = matched[2 * taught :]
    for kind, of_tasks in stream_data.kinds.items():
        probes = of_tasks[: None if task is None else taught]
        answering = stream_data.answering_kinds[kind]
        for score, matched in zip(scores, answering.shares(group, state, probes), strict=True):
            score[KIND + kind] = matched
    for name, probe in stream_data.questions.items():
        answering = Answering([probe], stream_data.pack)
        for score, (share,) in zip(scores, answering.shares(group, state, [probe]), strict=True):
            score[f"question_{name}"] = share
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

    def matched(probes: Sequence[ExactProbe]) -> list[float]:
        return answered_shares(probes, scorer.score(base.params, all_rows(probes)).greedy)

    found: Scores = {"seen": [], "unseen": [], "ahead": matched(stream_data.unseen)}
    found |= {KIND + kind: matched(probes) for kind, probes in stream_data.kinds.items()}
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


def require_kinds(scores: Scores, kinds: Iterable[str]) -> None:
    """Refuses scores of a base that was not asked in these kinds, as in a run of older versions."""
    lacking = [kind for kind in kinds if KIND + kind not in scores]
    if lacking:
        raise ValueError(
            f"its base was not asked in the kinds of question {', '.join(lacking)}, as an earlier "
            "version asked in none; go on with that version, or choose another --out"
        )


def measure_in_context(
    config: ProbeConfig, base: Base, stream_data: StreamData, scorer: Scorer
) -> Scores:
    """What the base answers of each task with its facts in the prompt, where that is wanted.

    The share of exact answers by task, ``None`` where a task's facts fit into no prompt, in unseen
    paraphrases and by kind of question.
    """
    if not config.in_context:
        return {}
    positions, steps = base.config.max_positions, config.probe_answer_tokens
    unseen: list[float | None] = []
    kinds: dict[str, list[float | None]] = {kind: [] for kind in stream_data.kinds}
    with progress_bar(len(stream_data.tasks), "facts in the prompt", "task") as progress:
        for task in stream_data.tasks:
            asked = [unseen_questions(task.facts, ASKED)]
            asked += [tuple(q for fact in task.facts for q in fact.of_kind(kind)) for kind in kinds]
            probes = [
                in_context_probe(base.tokenizer, task.facts, questions, positions, steps)
                for questions in asked
            ]
            found = exact_shares(scorer, base.params, probes)
            for shares, share in zip((unseen, *kinds.values()), found, strict=True):
                shares.append(share)
            progress(len(unseen))
    if lacking := sum(None in of_task for of_task in zip(unseen, *kinds.values(), strict=True)):
        say(
            f"--in_context: the facts of {lacking} of {len(unseen)} tasks and a question are more "
            f"than the model's {positions} tokens; lower --facts_per_task to have them measured"
        )
    return {TOLD: unseen} | {KIND + kind + IN_CONTEXT: shares for kind, shares in kinds.items()}


def probe_columns(
    stream_data: StreamData, scores: Scores, base_scores: Scores, task: int
) -> dict[str, float | None]:
    """The columns of all probes beside the stream and of its kinds, each with that of the base.

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
    if told := base_scores.get(TOLD):
        found["unseen" + IN_CONTEXT] = told[task]
    now, base, told = (
        {kind: of[key] for kind in stream_data.kinds if (key := KIND + kind + ending) in of}
        for of, ending in ((scores, ""), (base_scores, ""), (base_scores, IN_CONTEXT))
    )
    return found | kind_columns(now, base, told, task)


def result_line(row: ResultRow) -> str:
    """One finished task, for the terminal."""
    parts = [
        f"{row.trial.id} task {row.task + 1}:",
        f"learned {row.seen:.1%} seen, {row.unseen:.1%} unseen;",
        f"stream so far {row.stream_unseen:.1%};",
    ]
    if row.known is not None:
        parts.append(f"known {row.known:.1%};")
    if (strict := row.further.get(STRICT)) is not None:
        parts.append(f"strict {strict:.1%};")
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
