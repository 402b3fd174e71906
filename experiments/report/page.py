"""`report.html`: the report of a run as one page to look into, which needs no network."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np

from experiments.report.figures import ChangedSlots, colour_of, overlap_matrix
from experiments.report.kinds import KINDS, kinds_cells
from experiments.report.summary import (
    Setting,
    best,
    curve_labels,
    forgetting,
    grouped,
    retention_matrix,
    sweeps,
)
from smf_jax.continual.trial import shortest

PAGE = "report.html"
_BINS = 128  # of the slots in a map
_STYLE = """
body { font: 16px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem;
  color: #222; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; font-size: .9rem; width: 100%; }
th, td { text-align: left; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid #ddd;
  vertical-align: top; overflow-wrap: break-word; }
th { color: #666; font-weight: normal; } p { color: #444; }
"""
_WHEN = ("base", "after_task", "at_end")  # a fact was asked
Section = tuple[str, str, str]  # title, words, HTML


def can_draw() -> bool:
    """Whether plotly, an optional extra, is there."""
    return find_spec("plotly") is not None


def sweep_page(
    name: str,
    averages: Sequence[Setting],
    slots: ChangedSlots,
    answers: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> str:
    """The page of a sweep: the means over its seeds, the slots that trials changed, and answers.

    ``answers`` are the rows of `experiments.answers` by the id of a trial.
    """
    sections: list[Section] = []
    if averages:
        sections.append(_frontier(averages))
        if kinds := kinds_cells(averages):
            sections.append(("Kinds of question", KINDS, _table(kinds[0], kinds[1:])))
        shown = {
            _title(averages, s): s for s in map(best, grouped(averages, "trial.method").values())
        }
        if any(setting.outcomes[0].retention for setting in shown.values()):
            sections += [_over_time(shown), _tasks(shown)]
        sections += [_answers(trial, rows) for trial, rows in (answers or {}).items()]
        if maps := {t: slots[s.trial.id] for t, s in shown.items() if slots.get(s.trial.id)}:
            sections.append(_slot_maps(maps))
    return _page(name, sections)


def taught_page(name: str, told: Mapping[str, Any], slots: Mapping[str, Any]) -> str:
    """The page of a taught model, from its ``report.json`` and the slots of its patches by name."""
    sections: list[Section] = []
    for lesson in told["lessons"]:
        rows = [
            (
                fact["asked"],
                fact["expected"][0],
                _said(fact["said_before"]),
                _said(fact["said_after"]),
                fact["status"],
            )
            for fact in lesson["facts"]
        ]
        head = ("asked", "expected", "said before", "said after", "")
        words = f"From {lesson['file']}, in wordings that the facts were not trained in."
        sections.append((lesson["name"], words, _table(head, rows)))
    if slots:
        sections.append(_slot_maps({"all patches": list(slots.values())}, list(slots)))
    return _page(name, sections)


def _answers(trial: str, rows: Sequence[Mapping[str, Any]]) -> Section:
    cells = [
        (
            str(row["task"] + 1),
            row["asked"],
            row["expected"][0],
            *("not kept" if row[each] is None else row[each] or "(nothing)" for each in _WHEN),
            "" if row["right"] else "wrong",
        )
        for row in rows
    ]
    head = ("task", "asked", "expected", "the base says", "after its task", "at the end", "")
    right = sum(row["right"] for row in rows)
    words = f"{right} of {len(rows)} answers are right at the end, in wordings that facts were not "
    return f"Facts of {trial}", f"{words}trained in.", _table(head, cells)


def _said(said: Sequence[Mapping[str, Any]]) -> str:
    return " / ".join(dict.fromkeys(each["said"] or "(nothing)" for each in said))


def _title(averages: Sequence[Setting], setting: Setting) -> str:
    labels = curve_labels(sweeps(averages))
    return f"{labels[setting.trial.sweep]}, lr {shortest(setting.trial.learning_rate)}"


def _frontier(averages: Sequence[Setting]) -> Section:
    from plotly.graph_objects import Figure, Scatter  # pyright: ignore[reportMissingImports]

    metric, forgotten = forgetting(averages)
    curves = sweeps(averages)
    labels, figure, methods = curve_labels(curves), Figure(), []
    share = metric == "known_forgotten"
    for name, curve in curves.items():
        method = curve[0].trial.method
        look = {"color": colour_of(method), "size": 10, "symbol": len(methods) % 20}
        figure.add_trace(
            Scatter(
                x=[setting.mean["end_unseen"] for setting in curve],
                y=[setting.mean[metric] for setting in curve],
                mode="lines+markers",
                name=labels[name],
                marker=look,
                line={"color": colour_of(method), "width": 1.5},
                text=[_hover(setting) for setting in curve],
                hovertemplate="%{text}<extra>%{fullData.name}</extra>",
            )
        )
        methods.append(method)
    buttons = [{"label": "all methods", "method": "update", "args": [{"visible": True}]}]
    for method in dict.fromkeys(methods):
        seen = {"visible": [each == method for each in methods]}
        buttons.append({"label": method, "method": "update", "args": [seen]})
    # Of all methods, whichever are shown.
    heights = [setting.mean[metric] for setting in averages]
    low, high = min(0.0, *heights), max(0.01, *heights)
    span = [low - 0.05 * (high - low), high + 0.05 * (high - low)]
    known = "new facts known at the end (unseen paraphrases)"
    figure.update_xaxes(title=known, tickformat=".0%", range=[-0.03, 1.03])
    figure.update_yaxes(title=forgotten, tickformat=".1%" if share else ".3f", range=span)
    figure.update_layout(updatemenus=[_menu(buttons)])
    words = (
        "Each mark is a setting, the mean over its seeds; along a curve the learning rate rises."
    )
    return "Learned against forgotten", words, _html(figure, "frontier")


def _hover(setting: Setting) -> str:
    mean = setting.mean
    lines = [
        f"lr {shortest(setting.trial.learning_rate)}, {len(setting.outcomes)} seeds",
        f"learned {mean['learned_unseen']:.1%}, at the end {mean['end_unseen']:.1%}",
        f"known kept {mean['known_kept']:.1%}, text loss {mean['text_loss_change']:+.4f}",
    ]
    if not np.isnan(mean["rows_changed"]):
        lines.append(f"{mean['rows_changed']:,.0f} rows a task")
    return "<br>".join(lines)


def _over_time(shown: Mapping[str, Setting]) -> Section:
    from plotly.graph_objects import Figure, Scatter  # pyright: ignore[reportMissingImports]

    figure, most = Figure(), 0
    for title, setting in shown.items():
        matrix = retention_matrix(setting)
        tasks, most = np.arange(1, len(matrix) + 1), max(most, len(matrix))
        for words, scores, dash in (
            ("all tasks so far", np.nanmean(matrix, axis=1), "solid"),
            ("the first task", matrix[:, 0], "dot"),
        ):
            figure.add_trace(
                Scatter(
                    x=tasks.tolist(),
                    y=scores.tolist(),
                    mode="lines+markers",
                    name=f"{title}: {words}",
                    line={"color": colour_of(setting.trial.method), "dash": dash},
                )
            )
    figure.update_xaxes(title="after task", dtick=1 if most < 20 else None)
    figure.update_yaxes(title="accuracy, unseen paraphrases", tickformat=".0%", rangemode="tozero")
    words = "Each method at its best setting: what is known of the tasks so far, and of the first."
    return "Retention over time", words, _html(figure, "retention")


def _tasks(shown: Mapping[str, Setting]) -> Section:
    """The tasks of one trial of each setting."""
    parts = []
    for title, setting in shown.items():
        retention = setting.outcomes[0].retention
        rows = [
            (str(task + 1), f"{scores[-1]:.0%}", f"{retention[-1][task]:.0%}")
            for task, scores in enumerate(retention)
        ]
        head = ("task", "accuracy right after it", "at the end")
        parts.append(f"<h3>{html.escape(title)}</h3>{_table(head, rows)}")
    words = "Of the first seed of each method's best setting, in unseen paraphrases."
    return "Tasks of a trial", words, "".join(parts)


def _slot_maps(maps: Mapping[str, Sequence[Any]], names: Sequence[str] = ()) -> Section:
    """Where tasks changed the table, and how much of that each two of them share."""
    from plotly.graph_objects import Figure, Heatmap  # pyright: ignore[reportMissingImports]

    figures = []
    for title, changed in maps.items():
        tasks = list(names) or [f"task {number + 1}" for number in range(len(changed))]
        top = max((int(np.max(each)) for each in changed if len(each)), default=0) + 1
        edges = np.linspace(0, top, min(_BINS, top) + 1)
        counts = np.stack([np.histogram(each, edges)[0] for each in changed])
        spans = [f"{int(np.ceil(a))} to {int(np.ceil(b)) - 1}" for a, b in pairwise(edges)]
        figure = Figure(
            Heatmap(
                z=counts.tolist(),
                y=tasks,
                customdata=[spans] * len(tasks),
                x=((edges[:-1] + edges[1:]) / 2).tolist(),
                colorscale="Blues",
                hovertemplate="%{y}: %{z} of slots %{customdata}<extra></extra>",
            )
        )
        figure.update_layout(title=f"{title}: slots that were changed")
        figure.update_xaxes(title="slot")
        figure.update_yaxes(autorange="reversed")
        figures.append(_html(figure, f"slots-{len(figures)}", 220 + 24 * len(tasks)))
        if len(changed) > 1:
            shares = overlap_matrix(changed)
            figure = Figure(
                Heatmap(
                    z=[
                        [None if np.isnan(value) else value for value in row]
                        for row in shares.tolist()
                    ],
                    x=tasks,
                    y=tasks,
                    colorscale="Blues",
                    zmin=0,
                    zmax=float(max(0.01, np.nan_to_num(shares).max())),
                    hovertemplate="%{z:.1%} of those of %{y} are also of %{x}<extra></extra>",
                )
            )
            figure.update_layout(title=f"{title}: slots that two tasks share")
            figure.update_yaxes(autorange="reversed")
            figures.append(_html(figure, f"slots-{len(figures)}", 260 + 24 * len(tasks)))
    return "Slot maps", "The rows of the memory's tables that each task wrote.", "".join(figures)


def _menu(buttons: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    place = {"x": 0, "xanchor": "left", "y": 1.18, "yanchor": "top"}
    return {"buttons": list(buttons), "direction": "down", **place}


def _html(figure: Any, name: str, height: int = 480) -> str:
    """A figure with a name of its own, so that the same run gives the same page."""
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 70, "r": 20, "t": 70, "b": 60},
        legend={"orientation": "h", "y": -0.2},
    )
    config = {"displaylogo": False, "responsive": True}
    return figure.to_html(full_html=False, include_plotlyjs=False, config=config, div_id=name)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], kind: str) -> str:
        return f"<tr>{''.join(f'<{kind}>{html.escape(cell)}</{kind}>' for cell in cells)}</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def _page(name: str, sections: Sequence[Section]) -> str:
    from plotly.offline import get_plotlyjs  # pyright: ignore[reportMissingImports]

    title = html.escape(name)
    body = "".join(
        f"<section><h2>{html.escape(heading)}</h2><p>{html.escape(words)}</p>{content}</section>"
        for heading, words, content in sections
    )
    script = f"<script>{get_plotlyjs()}</script>"
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>{script}'
    whole = f"<head>{head}</head><body><h1>{title}</h1>{body}</body>"
    return f'<!doctype html><html lang="en">{whole}</html>'
