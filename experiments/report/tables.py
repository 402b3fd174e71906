"""The tables of a report, in Markdown that reads well in a terminal too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import attrgetter, methodcaller
from typing import Any

import numpy as np

from experiments.report.matched import matched
from experiments.report.summary import (
    TRANSFERS,
    Setting,
    best,
    curve_labels,
    forgetting,
    sweeps,
)
from smf_jax.continual.results import PROBE
from smf_jax.evaluation.probe import Metric

MISSING = "–"
SCORES = (0.25, 0.5, 0.75, 0.9, 0.95)
MATCHED = """\
The least {forgotten} where a sweep over the learning rate gets at least this far in unseen
paraphrases, along straight lines between the points of each seed at the rates that all seeds have;
– where a seed does not get there."""
COLUMNS = ("setting", "seeds", "learned, seen / unseen", "at the end, seen / unseen", "known kept")
COLUMNS += ("text loss", "rows a task", "trains", "optimizer", "seconds")
TRANSFER_COLUMNS = ("setting", "average", "backward", "forward", "forgetting", "gain", "drop")
TRANSFER_COLUMNS += ("first tenth", "first fifth")
HEALTH_COLUMNS = {
    "used_share": "used",
    "kl_to_uniform": "KL to uniform, nats",
    "gini": "Gini",
    "top_1_share": "busiest slot",
    "busiest_percent_share": "busiest 1 %",
    "drift": "drift",
}


def summary_table(averages: Sequence[Setting]) -> str:
    """Return a line a setting, and for comparison of the base, untouched and told the facts."""
    winner = best(averages) if averages else None
    lines = [_cells(setting, bold=setting is winner) for setting in averages]
    untrained: dict[str, float] = {}  # each of the first trial that measured it
    for setting in averages:
        for outcome in setting.outcomes:
            untrained = outcome.untrained | untrained
    for name, score in sorted(untrained.items()):
        unseen = f"{MISSING} / {100 * score:.1f}"
        lines.append((name, MISSING, unseen, unseen, *[MISSING] * (len(COLUMNS) - 4)))
    return markdown_table(COLUMNS, lines)


def _cells(setting: Setting, bold: bool) -> tuple[str, ...]:
    """Return the cells of one setting."""
    name, last = setting.trial.setting, setting.outcomes[-1]

    def percent(metric: str) -> str:
        return measured(setting.mean[metric], setting.interval[metric], ".1f", 100)

    return (
        f"**{name}**" if bold else name,
        str(len(setting.outcomes)),
        f"{percent('learned_seen')} / {percent('learned_unseen')}",
        f"{percent('end_seen')} / {percent('end_unseen')}",
        percent("known_kept"),
        measured(setting.mean["text_loss_change"], setting.interval["text_loss_change"], "+.3f"),
        number(setting.mean["rows_changed"], ",.0f"),
        f"{number(last.trainable_parameters, ',.0f')} ({number(last.trainable_share, '.2%')})",
        size(last.optimizer_bytes),
        number(setting.mean["seconds"], ",.0f"),
    )


def matched_tables(averages: Sequence[Setting]) -> str:
    """Return what each sweep forgets at matched scores: known facts or text, and named probes."""
    metric, words = forgetting(averages)
    how = (".1f", 100.0) if metric == "known_forgotten" else (".3f", 1.0)
    tables: list[tuple] = [
        ("learned", "learned_unseen", attrgetter(metric), how),
        ("known at the end", "end_unseen", attrgetter(metric), how),
    ]
    for key in headlines(averages):
        if averages[0].outcomes[0].probe_bases[key]:  # or the base has nothing to lose
            title = f"learned; {_probe_name(key)} worse by, percent"
            tables.append((title, "learned_unseen", methodcaller("worsened", key), (".1f", 100)))
    curves = sweeps(averages)
    labels = curve_labels(curves)
    parts = [MATCHED.format(forgotten=words + (", percent" if how[1] > 1 else ""))]
    for title, learned, forgotten, how in tables:
        lines = []
        for name, curve in curves.items():
            found = [matched(curve, attrgetter(learned), forgotten, score) for score in SCORES]
            lines.append((labels[name], *(measured(*each, *how) for each in found)))
        parts.append(markdown_table((title, *(f"{score:.0%}" for score in SCORES)), lines))
    return "\n\n".join(parts)


def probe_table(averages: Sequence[Setting]) -> str:
    """Return the headlines of named probes after the stream: a line a setting, one for the base."""
    metrics = headlines(averages)
    styles = {key: (metric.format, metric.factor) for key, metric in metrics.items()}
    bases = averages[0].outcomes[0].probe_bases
    lines = [("base", *(measured(bases[key], math.nan, *style) for key, style in styles.items()))]
    for setting in averages:
        cells = []
        for key, style in styles.items():
            text = measured(setting.mean[key], setting.interval[key], *style)
            worse = float(np.mean([outcome.worsened(key) for outcome in setting.outcomes]))
            cells.append(text if math.isnan(worse) else f"{text} ({0.0 - 100 * worse:+.1f} %)")
        lines.append((setting.trial.setting, *cells))
    return markdown_table(("setting", *map(_probe_name, metrics)), lines)


def transfer_table(averages: Sequence[Setting]) -> str:
    """Return a line a setting: what the tasks of the stream did to each other, and to the rest."""
    lines = []
    for setting in averages:
        found = ((setting.mean[name], setting.interval[name]) for name in TRANSFERS)
        styles = (".1f", *["+.1f"] * 2, *[".1f"] * 5)
        cells = (measured(*each, style, 100) for each, style in zip(found, styles, strict=True))
        lines.append((setting.trial.setting, *cells))
    return markdown_table(TRANSFER_COLUMNS, lines)


def headlines(averages: Sequence[Setting]) -> dict[str, Metric]:
    """The metric to look at of each named probe that every trial has, by its key in the rows."""
    outcomes = [outcome for setting in averages for outcome in setting.outcomes]
    metrics = outcomes[0].metrics if outcomes else {}
    return {
        key: metric
        for key, metric in metrics.items()
        if metric.headline and all(key in outcome.metrics for outcome in outcomes)
    }


def _probe_name(key: str) -> str:
    return key.removeprefix(PROBE).replace("_", " ")


def health_table(averages: Sequence[Setting], health: Mapping[str, Any]) -> str:
    """Return the slot health before and after, by text, setting and pool; empty without any."""
    found = [
        (f"{name}, {health[part]['batches']} batches", [health[part]])
        for part, name in (("background", "background"), ("recount", "base"))
        if health[part]
    ]
    for setting in averages:
        trials = [health["trials"].get(outcome.trial.id) for outcome in setting.outcomes]
        found.append((setting.trial.setting, [trial for trial in trials if trial]))
    lines = []
    for name, seeds in found:
        for pool in seeds[0]["pools"] if seeds else ():
            title = name if len(seeds[0]["pools"]) == 1 else f"{name}, {pool.split('/')[1]}"
            cells = []
            for key in HEALTH_COLUMNS:
                mean = float(np.mean([each["pools"][pool].get(key, math.nan) for each in seeds]))
                cells.append(number(mean, ".1%" if key.endswith("share") else ".3f"))
            lines.append((title, *cells))
    return markdown_table(("text or setting", *HEALTH_COLUMNS.values()), lines) if lines else ""


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Lay out a table with its columns aligned: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    rows = []
    for cells in (header, rule, *lines):
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        rows.append(f"| {' | '.join(padded)} |")
    return "\n".join(rows)


def score_table(scores: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Lay out the metrics of probes, a line for each; what is no number is left out."""
    lines = [
        (name, metric, f"{value:.4f}")
        for name, of_name in scores
        for metric, value in of_name.items()
        if isinstance(value, (int, float))  # not the "N/A" of the harness
    ]
    return markdown_table(("probe", "metric", "score"), lines)


def number(value: float, style: str) -> str:
    """Write a number, or a dash where nothing was measured."""
    return MISSING if math.isnan(value) else format(value, style)


def measured(mean: float, interval: float, style: str, factor: float = 1) -> str:
    """Write a mean with half its interval, if no NaN, times the factor; only the mean is signed."""
    text = number(factor * mean, style)
    if math.isnan(mean) or math.isnan(interval):
        return text
    return f"{text} ± {factor * interval:{style.removeprefix('+')}}"


def size(value: float) -> str:
    """Write a number of bytes in the largest unit that leaves at least one."""
    if math.isnan(value):
        return MISSING
    units = ("B", "KiB", "MiB", "GiB")
    power = min(len(units) - 1, int(math.log(max(value, 1), 1024)))
    return f"{value / 1024**power:.{1 if power else 0}f} {units[power]}"
