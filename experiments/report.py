"""The report of a sweep: `summary.csv`, `report.md` and its pictures, from the rows of the run."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
from jaxtyping import Int

from experiments.figures import draw_pictures
from experiments.grid import Trial
from experiments.summary import (
    Outcome,
    Row,
    Setting,
    average,
    best,
    curve_labels,
    finished,
    forgetting,
    least_forgetting,
    summarise,
    sweeps,
)

MISSING = "–"
SCORES = (0.25, 0.5, 0.75, 0.9, 0.95)
PICTURES = ("frontier", "retention", "slots")

WORDS = """\
Accuracies are in percent, first in the wordings that a fact was trained in (seen), then in wordings
that only other facts were trained in (unseen). *Learned*: each task asked right after it was
taught, mean over tasks. *At the end*: all tasks after the last one. *Known kept*: accuracy on the
known facts after the last task over that of the base. *Text loss*: its rise on neutral text, in
nats a token. *Rows a task*: rows of the table that a task changed. ± is half the width of the 95 %
interval of the mean over seeds. **Bold**: the highest harmonic mean of the new facts known at the
end (unseen) and the known facts kept."""
FRONTIER = """\
Each mark is a setting, small ones its seeds; along a curve the learning rate rises. Lower and
further to the right is better."""
MATCHED = """\
The least {forgotten} where a sweep over the learning rate gets at least this far in unseen
wordings, along straight lines between its points; – where it does not get there."""
RETENTION = "Accuracy on each task so far, in unseen wordings; each method at its best setting."
SLOTS = "Share of the slots changed by the task of the row that the task of the column changed too."


def write_report(
    directory: Path,
    rows: Iterable[Row],
    changed_slots: Mapping[str, Sequence[Int[np.ndarray, "_"]]],
) -> str:
    """Write the tables and the pictures of a run, over those of an earlier report.

    Args:
      directory: the run; gets `summary.csv`, `report.md`, `frontier.png`, and `retention.png` and
          `slots.png` where there is something to draw.
      rows: the rows of its `results.jsonl`; trials may have failed or be unfinished.
      changed_slots: id of a trial -> the distinct slots that each of its tasks changed.

    Returns:
      The summary table, for the terminal.
    """
    outcomes = summarise(rows)
    averages = average(finished(outcomes))
    absent = left_out(outcomes)
    pictures = draw_pictures(averages, changed_slots, note="\n".join(absent[:3]))
    for name in PICTURES:
        path = directory / f"{name}.png"
        if name in pictures:
            pictures[name].savefig(path)
        else:
            path.unlink(missing_ok=True)
    (directory / "summary.csv").write_text(summary_csv(outcomes), encoding="utf-8")
    text = render(directory.name, averages, absent, tuple(pictures))
    (directory / "report.md").write_text(text, encoding="utf-8")
    return summary_table(averages)


def left_out(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """Name the trials that the means and the pictures leave out, and say why."""
    tasks = max((outcome.tasks for outcome in outcomes), default=0)
    present = finished(outcomes)
    return tuple(
        f"{o.trial.id} failed at {o.failed}"
        if o.failed
        else f"{o.trial.id} has finished {o.tasks} of {tasks} tasks"
        for o in outcomes
        if o not in present
    )


def render(
    name: str, averages: Sequence[Setting], absent: Sequence[str], pictures: Sequence[str]
) -> str:
    """Return the text of `report.md`.

    Args:
      name: of the run.
      averages: the settings, means over seeds.
      absent: what the means leave out, a line each.
      pictures: the names of the pictures beside the text.
    """
    parts = [f"# {name}", summary_table(averages), WORDS]
    if absent:
        parts += ["Not in the means and the pictures:", "\n".join(f"- {line}" for line in absent)]
    parts += [
        "## Learned against forgotten",
        "![learned against forgotten](frontier.png)",
        FRONTIER,
    ]
    if averages:
        parts += ["## Forgetting at matched learning", matched_tables(averages)]
    if "retention" in pictures:
        parts += ["## Retention", "![accuracy on each task, after each task](retention.png)"]
        parts += [RETENTION]
    if "slots" in pictures:
        parts += ["## Changed slots", "![overlap of changed slots](slots.png)", SLOTS]
    return "\n\n".join(parts) + "\n"


def summary_csv(outcomes: Iterable[Outcome]) -> str:
    """Return a line a trial: its settings and what it came to, empty where nothing was measured."""
    settings = [field.name for field in fields(Trial)]
    results = [f.name for f in fields(Outcome) if f.name not in ("trial", "retention")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", *settings, *results])
    for outcome in outcomes:
        values = [getattr(outcome.trial, name) for name in settings]
        values += [getattr(outcome, name) for name in results]
        writer.writerow([outcome.trial.id, *map(_cell, values)])
    return text.getvalue()


def _cell(value: object) -> object:
    """Write a number of a CSV file: six digits, nothing for NaN."""
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"


def summary_table(averages: Sequence[Setting]) -> str:
    """Return a line a setting, in Markdown that reads well in a terminal too."""
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
    return (
        f"**{name}**" if bold else name,
        str(len(setting.outcomes)),
        f"{_percent(setting, 'learned_seen')} / {_percent(setting, 'learned_unseen')}",
        f"{_percent(setting, 'end_seen')} / {_percent(setting, 'end_unseen')}",
        _percent(setting, "known_kept"),
        _format(setting.mean["text_loss_change"], "+.3f"),
        _format(setting.mean["rows_changed"], ",.0f"),
        f"{_format(last.trainable_parameters, ',.0f')} ({_format(last.trainable_share, '.2%')})",
        _bytes(last.optimizer_bytes),
        _format(setting.mean["seconds"], ",.0f"),
    )


def matched_tables(averages: Sequence[Setting]) -> str:
    """Return what each sweep forgets at matched scores, right after learning and at the end."""
    metric, forgotten = forgetting(averages)
    style = ".1%" if metric == "known_forgotten" else ".3f"
    curves = sweeps(averages)
    labels = curve_labels(curves)
    parts = [MATCHED.format(forgotten=forgotten)]
    for learned, title in (("learned_unseen", "learned"), ("end_unseen", "known at the end")):
        lines = []
        for name, curve in curves.items():
            x, y = (np.array([s.mean[key] for s in curve]) for key in (learned, metric))
            values = (least_forgetting(x, y, score) for score in SCORES)
            lines.append((labels[name], *(_format(value, style) for value in values)))
        parts.append(markdown_table((title, *(f"{score:.0%}" for score in SCORES)), lines))
    return "\n\n".join(parts)


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


def _percent(setting: Setting, metric: str) -> str:
    """Write a share as a percentage, with its interval where there is one."""
    text = _format(100 * setting.mean[metric], ".1f")
    interval = setting.interval[metric]
    return text if math.isnan(interval) else f"{text} ± {100 * interval:.1f}"


def _format(value: float, style: str) -> str:
    return MISSING if math.isnan(value) else format(value, style)


def _bytes(value: float) -> str:
    """Write a size in the largest unit that leaves at least one."""
    if math.isnan(value):
        return MISSING
    units = ("B", "KiB", "MiB", "GiB")
    power = min(len(units) - 1, int(math.log(max(value, 1), 1024)))
    return f"{value / 1024**power:.{1 if power else 0}f} {units[power]}"
