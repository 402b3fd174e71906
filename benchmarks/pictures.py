"""Pictures of cost against table slots, one a suite. Nothing here reads or writes files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from benchmarks.results import setting_text
from experiments.report.figures import STYLE, WIDTH

# Okabe and Ito (2008), told apart with any common colour blindness; and a marker for each.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = "os^vDPXp"
_LEGEND_CHARACTERS = 105


def draw_growth(result: Mapping[str, Any]) -> dict[str, Figure]:
    """Draws cost against table slots: a picture a suite, a curve a contestant.

    Args:
      result: as `Report.to_dict` gives it or JSON holds it.

    Returns:
      By suite, for those that measured several numbers of slots.
    """
    suites = list(dict.fromkeys(row["suite"] for row in result["measurements"]))
    pictures = {}
    for suite in suites:
        curves = _curves([row for row in result["measurements"] if row["suite"] == suite])
        if any(len(curve) > 1 for curve in curves.values()):
            pictures[suite] = _draw(suite, curves)
    return pictures


def _curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, tuple[float, float, float]]]:
    """By contestant and table slots: median and quartiles in milliseconds."""
    curves: dict[str, dict[int, tuple[float, float, float]]] = {}
    for row in rows:
        setting = dict(row["setting"])
        slots = setting.pop("table_slots", None)
        setting.pop("tokens", None)
        if slots is None or "seconds" not in row:
            continue
        name = ", ".join([row["name"], *([setting_text(setting)] if setting else [])])
        seconds = (row["seconds"]["median"], *row["seconds"]["quartiles"])
        median, low, high = (1e3 * value for value in seconds)
        curves.setdefault(name, {}).setdefault(slots, (median, low, high))
    return curves


def _draw(suite: str, curves: Mapping[str, Mapping[int, tuple[float, float, float]]]) -> Figure:
    slots = sorted({count for curve in curves.values() for count in curve})
    longest = max(map(len, curves))
    columns = max(1, min(3, _LEGEND_CHARACTERS // (longest + 8)))  # 8 for the line and the gap
    with rc_context(STYLE):
        height = 3.8 + 0.2 * -(-len(curves) // columns)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots()
        for place, (name, curve) in enumerate(curves.items()):
            counts = sorted(curve)
            median, low, high = zip(*(curve[count] for count in counts), strict=True)
            colour = COLOURS[place % len(COLOURS)]
            axes.plot(
                counts,
                median,
                label=name,
                color=colour,
                marker=MARKERS[place % len(MARKERS)],
                linestyle="-" if place < len(COLOURS) else "--",
                markeredgecolor="white",
                markeredgewidth=0.6,
            )
            axes.fill_between(counts, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(FixedLocator(slots))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("table slots")
        axes.set_ylabel(f"{suite}: milliseconds a call\n(less is better)")
        axes.grid(True)
        figure.legend(loc="outside lower center", ncols=columns)
    return figure
