"""The pictures of a sweep. Each function returns a figure; nothing here reads or writes files.

Drawn for a width of 800 pixels, in colours that the colour blind tell apart (Okabe and Ito, 2008).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np
from jaxtyping import Int
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, PercentFormatter

from experiments.report.summary import (
    Matrix,
    Setting,
    best,
    curve_labels,
    forgetting,
    grouped,
    retention_matrix,
    sweeps,
)
from smf_jax.continual.methods import METHODS
from smf_jax.continual.trial import shortest

# The distinct slots that each task of a trial changed, by the trial's id.
ChangedSlots = Mapping[str, Sequence[Int[np.ndarray, "_"]]]
WIDTH = 8  # inches: 100 of the 800 pixels each
OTHER_COLOUR = "#666666"
MARKERS = {"smf": "osXpDP^v", "full": "^<>", "lora": "vd", "replay": "D"}
OTHER_MARKERS = "Ph8*"
_PANELS = 4  # side by side
STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": "0.6",
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.dpi": 200,
    "font.size": 9.5,
    "grid.color": "0.9",
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "xtick.color": "0.6",
    "xtick.labelcolor": "0.15",
    "ytick.color": "0.6",
    "ytick.labelcolor": "0.15",
}


def colour_of(method: str) -> str:
    """The hue of a method's curves; grey for methods that have none of their own."""
    return METHODS[method].colour if method in METHODS else OTHER_COLOUR


def draw_pictures(
    averages: Sequence[Setting], changed_slots: ChangedSlots, note: str = ""
) -> dict[str, Figure]:
    """Draw the `frontier`, and `retention` and `slots` if any; the note tells what is left out."""
    curves = sweeps(averages)
    labels = curve_labels(curves)

    def title(setting: Setting) -> str:
        return f"{labels[setting.trial.sweep]}, lr {shortest(setting.trial.learning_rate)}"

    def overlap(setting: Setting) -> Matrix:
        trials = [outcome.trial.id for outcome in setting.outcomes]
        # Of a seed some patches may be missing.
        whole = len(changed_slots[trials[0]])
        given = [each for t in trials if len(each := changed_slots.get(t, ())) == whole]
        return np.mean([*map(overlap_matrix, given)], axis=0)

    pictures = {"frontier": draw_frontier(averages, note)}
    best_of_methods = map(best, grouped(averages, "trial.method").values())
    if retention := {title(setting): retention_matrix(setting) for setting in best_of_methods}:
        words = "after task", "accuracy on task", "accuracy"
        pictures["retention"] = draw_matrices(retention, *words)
    # Four panels fit: the best setting of a sweep, for the four best sweeps.
    several = [s for s in map(best, curves.values()) if len(changed_slots.get(s.trial.id, ())) > 1]
    shown = sorted(several, key=lambda setting: setting.balance)[-4:]
    if overlaps := {title(setting): overlap(setting) for setting in several if setting in shown}:
        # Overlaps are small as a rule: the scale ends at the largest.
        limit = max(0.01, *(np.nan_to_num(matrix).max() for matrix in overlaps.values()))
        words = "slots of task", "changed by task", "share of slots"
        pictures["slots"] = draw_matrices(overlaps, *words, limit)
    return pictures


def draw_frontier(averages: Sequence[Setting], note: str = "") -> Figure:
    """Draw what was learned against what was forgotten: a point a trial, a curve a sweep.

    On the left the new facts are asked right after each task, on the right at the end. Large marks
    are means over seeds. Forgetting is the relative drop on the known facts; where the base knew
    none, the rise of the loss on neutral text. Settings may be none; the note stands above.
    """
    metric, forgotten = forgetting(averages)
    curves = sweeps(averages)
    looks = _looks(curves)
    columns = _legend_columns([look["label"] for look in looks.values()])
    with rc_context(STYLE):
        height = 4.1 + 0.2 * math.ceil(len(curves) / columns)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        left, right = figure.subplots(1, 2, sharex=True, sharey=True, gridspec_kw={"wspace": 0.06})
        for axes, learned, label in (
            (left, "learned_unseen", "new facts learned, right after each task"),
            (right, "end_unseen", "new facts known at the end of the stream"),
        ):
            for name, curve in curves.items():
                _draw_curve(axes, curve, learned, metric, looks[name])
            axes.set_xlabel(f"{label}\n(unseen paraphrases; more is better)")
            axes.grid(True)
        left.set_ylabel(f"{forgotten}\n(root scale; less is better)")
        _scale_frontier(left, metric)
        if curves:
            handles, labels = left.get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=columns)
        if note:
            figure.suptitle(note, fontsize=8.5, color="0.35", x=0.01, ha="left")
    return figure


def _legend_columns(labels: Sequence[str]) -> int:
    """Return how many columns of these labels fit the width of a picture."""
    for columns in range(min(6, len(labels)), 1, -1):
        widest = [max(map(len, column)) for column in np.array_split(np.array(labels), columns)]
        if sum(widest) + 8 * columns <= 105:  # characters; 8 for the line and the gap
            return columns
    return 1


def _looks(curves: Mapping[str, Sequence[Setting]]) -> dict[str, dict]:
    """Give each curve its label, colour and marker: a hue a method, paler from curve to curve."""
    methods = grouped((curve[0] for curve in curves.values()), "trial.method")
    labels, places = curve_labels(curves), list(curves)
    looks, others = {}, [method for method in methods if method not in MARKERS]
    for method, settings in methods.items():
        first = others.index(method) % len(OTHER_MARKERS) if method in others else 0
        rotated = OTHER_MARKERS[first:] + OTHER_MARKERS[:first]
        markers, colour = MARKERS.get(method, rotated), np.array(to_rgb(colour_of(method)))
        # The last curve of a method, the largest budget of its last rule, has the full hue.
        for place, name in enumerate(setting.trial.sweep for setting in reversed(settings)):
            pale = 0.6 * place / max(len(settings) - 1, 2)
            looks[name] = {
                "label": labels[name],
                "color": tuple(colour + pale * (1 - colour)),
                "marker": markers[place % len(markers)],
                "zorder": 3 - places.index(name) / len(curves),  # the first lies on top
            }
    return looks


def _draw_curve(
    axes: Axes, curve: Sequence[Setting], learned: str, forgotten: str, look: Mapping
) -> None:
    """Draw one sweep: its trials, and a line through the means."""
    seeds = [outcome for setting in curve for outcome in setting.outcomes]
    if len(seeds) > len(curve):
        points = [[getattr(seed, metric) for seed in seeds] for metric in (learned, forgotten)]
        small = {"markersize": 3, "markeredgewidth": 0, "alpha": 0.55, "linestyle": "none"}
        axes.plot(*points, clip_on=False, **{**look, **small, "label": "_trials"})
    points = [[setting.mean[metric] for setting in curve] for metric in (learned, forgotten)]
    large = {"markersize": 7, "markeredgewidth": 0.8, "markeredgecolor": "white", "linewidth": 1.6}
    axes.plot(*points, clip_on=False, **look, **large)


def _scale_frontier(axes: Axes, forgotten: str) -> None:
    """Set the shared axes: percent of facts; forgetting by its root, which widens small values."""
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    both_ways = [lambda x, of=of: np.sign(x) * of(np.abs(x)) for of in (np.sqrt, np.square)]
    axes.set_yscale("function", functions=both_ways)
    low, high = axes.dataLim.y0, axes.dataLim.y1
    if forgotten == "known_forgotten":
        axes.set_ylim(min(0, low), 1)
        axes.yaxis.set_major_locator(FixedLocator([0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1]))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    else:
        axes.set_ylim(min(0, low), max(0.01, 1.15 * high))


def draw_matrices(
    matrices: Mapping[str, Matrix], rows: str, columns: str, colours: str, limit: float = 1.0
) -> Figure:
    """Draw task × task shares by title, at most four side by side, NaN where there is none.

    What follows a title's first comma is set smaller; `limit` is the top of the colour scale.
    """
    with rc_context(STYLE):
        norm = Normalize(0, limit)
        rows_of_panels = math.ceil(len(matrices) / _PANELS)
        across = math.ceil(len(matrices) / rows_of_panels)
        side = min(2.6, 6.3 / across)
        titles = [_break_title(title, int(15 * side)) for title in matrices]
        lines = max(map(len, titles)) - 1
        height = rows_of_panels * (side + 0.45 + 0.15 * lines) + 0.25
        figure = Figure(figsize=(WIDTH, height), layout="compressed")
        panels = figure.subplots(rows_of_panels, across, sharex=True, sharey=True, squeeze=False)
        for axes in panels.flat[len(matrices) :]:
            axes.remove()
        for axes, matrix, title in zip(figure.axes, matrices.values(), titles, strict=True):
            axes.imshow(matrix, norm=norm, cmap="viridis")
            name, *details = title
            axes.set_title(name, loc="left", pad=6 + 11 * lines)
            text = "\n".join(details) + "\n" * (lines - len(details))
            axes.annotate(text, (0, 1), (0, 5), "axes fraction", "offset points", fontsize=8.5)
            axes.spines[:].set_visible(False)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        for place, axes in enumerate(figure.axes):
            if place % across == 0:
                axes.set_ylabel(rows)
            if place + across >= len(matrices):  # the lowest of its column
                axes.set_xlabel(columns)
                axes.tick_params(labelbottom=True)
        percent = PercentFormatter(1)  # as many digits as tell the ticks apart
        image = ScalarMappable(norm, "viridis")
        figure.colorbar(image, ax=list(figure.axes), label=colours, format=percent)
    return figure


def _break_title(title: str, width: int) -> list[str]:
    """Part a title into its first word and lines of details, broken only after commas."""
    name, _, details = title.partition(", ")
    whole = details.replace(" ", "\u00a0").replace(",\u00a0", ", ")
    return [name, *(line.replace("\u00a0", " ") for line in wrap(whole, width))]


def overlap_matrix(changed: Sequence[Int[np.ndarray, "_"]]) -> Matrix:
    """Share of the slots that the row's task changed which the column's task changed too.

    Each task's slots are distinct. NaN on the diagonal and where the row's task changed nothing.
    """
    shares = np.full((len(changed), len(changed)), np.nan)
    for row, slots in enumerate(changed):
        if len(slots):
            shares[row] = [np.isin(slots, others).mean() for others in changed]
    np.fill_diagonal(shares, np.nan)
    return shares
