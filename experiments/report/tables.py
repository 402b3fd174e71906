"""The tables of a report, in Markdown that reads well in a terminal too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter, methodcaller
from typing import Any

import numpy as np

from experiments.report.matched import matched
from experiments.report.summary import Outcome, Setting, best, curve_labels, forgetting, sweeps
from smf_jax.continual.results import PROBE
from smf_jax.evaluation.probe import Metric

MISSING = "–"
SCORES = (0.25, 0.5, 0.75, 0.9, 0.95)
MATCHED = """\
The least {forgotten} where a sweep over the learning rate gets at least this far in unseen
paraphrases, along straight lines between the points of each seed; – where a seed does not get
there."""
HEALTH_COLUMNS = {
    "used_share": "used",
    "kl_to_uniform": "KL to uniform, nats",
    "gini": "Gini",
    "top_1_share": "busiest slot",
    "busiest_percent_share": "busiest 1 %",
    "drift": "drift",
}


def summary_table(averages: Sequence[Setting]) -> str:
    """Return a line a setting."""
    header = (
        "setting",
        "seeds",
        "learned, seen / unseen",
        "at the end, seen / unseen",
        "known kept",
        "text loss",
        "rows a task",
        "trains",
        "optimizer",
        "seconds",
    )
    winner = best(averages) if averages else None
    return markdown_table(header, [_line(s, bold=s is winner) for s in averages])


def _line(setting: Setting, bold: bool) -> tuple[str, ...]:
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
    style, factor = (".1f", 100.0) if metric == "known_forgotten" else (".3f", 1.0)
    parts = [MATCHED.format(forgotten=words + (", percent" if factor > 1 else ""))]
    parts += [
        _matched_table(averages, title, learned, attrgetter(metric), style, factor)
        for learned, title in (("learned_unseen", "learned"), ("end_unseen", "known at the end"))
    ]
    for key in headlines(averages):
        if not averages[0].outcomes[0].probe_bases[key]:
            continue  # a base that fails a probe altogether has nothing to lose
        title = f"learned; {_probe_name(key)} worse by, percent"
        worsened = methodcaller("worsened", key)
        parts.append(_matched_table(averages, title, "learned_unseen", worsened, ".1f", 100))
    return "\n\n".join(parts)


def _matched_table(
    averages: Sequence[Setting],
    title: str,
    learned: str,
    forgotten: Callable[[Outcome], float],
    style: str,
    factor: float,
) -> str:
    curves = sweeps(averages)
    labels = curve_labels(curves)
    lines = []
    for name, curve in curves.items():
        found = [matched(curve, attrgetter(learned), forgotten, s) for s in SCORES]
        lines.append((labels[name], *(measured(*each, style, factor) for each in found)))
    return markdown_table((title, *(f"{score:.0%}" for score in SCORES)), lines)


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
    """Return the slot health of the base and of each setting after the stream.

    Args:
      averages: the settings.
      health: as `smf_jax.continual.slot_health.read_slot_health` returns it.

    Returns:
      A line for every text and setting, and pool where there are several; empty without any.
    """
    lines = []
    for part, words in (("background", "background, {} batches"), ("recount", "base, {} batches")):
        if health[part]:
            name = words.format(health[part]["batches"])
            lines += _health_lines(name, [health[part]["pools"]])
    for setting in averages:
        trials = [health["trials"].get(outcome.trial.id) for outcome in setting.outcomes]
        lines += _health_lines(setting.trial.setting, [trial["pools"] for trial in trials if trial])
    return markdown_table(("text or setting", *HEALTH_COLUMNS.values()), lines) if lines else ""


def _health_lines(name: str, found: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A line for every pool, mean over seeds."""
    lines = []
    for pool in found[0] if found else ():
        cells = []
        for key in HEALTH_COLUMNS:
            value = float(np.mean([each[pool].get(key, math.nan) for each in found]))
            cells.append(number(value, ".1%" if key.endswith("share") else ".3f"))
        title = name if len(found[0]) == 1 else f"{name}, {pool.split('/')[1]}"
        lines.append((title, *cells))
    return lines


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


def number(value: float, style: str) -> str:
    """Write a number, or a dash where nothing was measured."""
    return MISSING if math.isnan(value) else format(value, style)


def measured(mean: float, interval: float, style: str, factor: float = 1) -> str:
    """Write a mean with half the width of its interval, where it has one.

    Args:
      mean: the mean.
      interval: half the width of its 95 % interval, NaN for one seed.
      style: format of both; a sign in it is that of the mean alone.
      factor: both are multiplied by it first, such as 100 for a percentage.
    """
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
