"""The report of an ablation: the rows of its sweeps as those of one, and a picture by axis."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments.report.figures import STYLE, WIDTH
from experiments.report.summary import Setting, average, finished, summarise
from experiments.report.write import draw_report
from smf_jax.checkpoints.files import whole_file, write_text
from smf_jax.continual.ablation import Cell
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.trial import Trial

ROWS, PICTURE = "rows.jsonl", "axes.png"
# Metric by the words that an axis of a picture says of it.
_SHOWN = {"end_unseen": "new facts at the end", "known_kept": "known facts kept"}


def write_ablation(out: Path, cells: Sequence[Cell]) -> str:
    """Writes table, pictures and joined rows of the sweeps that ran; returns the table."""
    rows = [row for cell in cells for row in _rows_of(out / cell.name, cell)]
    write_text(out / ROWS, "".join(json.dumps(row) + "\n" for row in rows))
    probes = cells[0].config.probes.probes
    table = draw_report(out, rows, {}, probes=probes)
    averages = average(finished(summarise(rows, probes)))
    axes = {flag: None for cell in cells for flag in cell.changes if flag != "seeds"}
    if not axes:  # of seeds alone there are means, and nothing to compare
        return table
    with whole_file(out / PICTURE) as partial:
        draw_axes(averages, list(axes)).savefig(partial, format="png")
    report = out / "report.md"
    text = report.read_text(encoding="utf-8")
    write_text(report, f"{text}\n## By axis\n\n![what each setting changes]({PICTURE})\n")
    return table


def _rows_of(run: Path, cell: Cell) -> list[dict[str, Any]]:
    """The rows of a sweep, whose trials tell what the ablation varied."""
    found = []
    for row in RunDirectory(str(run)).rows():
        # Seeds are what means are over.
        changes = {flag: value for flag, value in cell.changes.items() if flag != "seeds"}
        varied = {**row.get("varied", {}), **changes}
        trial = Trial.from_row({**row, "varied": varied})
        found.append({**row, "varied": varied, "trial": trial.id})
    return found


def draw_axes(averages: Sequence[Setting], axes: Sequence[str]) -> Figure:
    """Draws a column for each axis: a mark a setting, a line through the means of its values.

    Above what is known of the stream at its end, in unseen paraphrases, below what is kept of the
    known facts. Settings that leave an axis as it is stand first, under a dash.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
        panels = figure.subplots(len(_SHOWN), len(axes), sharey=True, squeeze=False)
        for column, axis in enumerate(axes):
            values = [dict(setting.trial.varied).get(axis) for setting in averages]
            ticks = sorted(dict.fromkeys(values), key=lambda value: value is not None)
            for panel, (metric, words) in zip(panels[:, column], _SHOWN.items(), strict=True):
                _draw_axis(panel, averages, [ticks.index(value) for value in values], metric)
                labels = ["–" if tick is None else str(tick) for tick in ticks]
                panel.set_xticks(range(len(ticks)), labels)
                panel.set_xlim(-0.5, len(ticks) - 0.5)
                panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
                panel.grid(True, axis="y")
                if column == 0:
                    panel.set_ylabel(words)
            panels[-1, column].set_xlabel(axis)
    return figure


def _draw_axis(panel: Any, averages: Sequence[Setting], at: Sequence[int], metric: str) -> None:
    scores = np.array([setting.mean[metric] for setting in averages])
    halves = np.nan_to_num([setting.interval[metric] for setting in averages])
    panel.errorbar(at, scores, halves, fmt="o", markersize=4, color="#0072B2", alpha=0.6)
    places = sorted(set(at))
    means = [float(np.mean(scores[np.array(at) == place])) for place in places]
    panel.plot(places, means, color="#0072B2", linewidth=1.6)
