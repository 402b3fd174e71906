"""The tables and pictures of a benchmark: cost against table slots, and what must hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from benchmarks.machine import Rates, machine_line
from benchmarks.report import in_milliseconds, line_of, setting_text
from experiments.report.figures import STYLE, WIDTH
from experiments.report.tables import markdown_table

# Median and quartiles in seconds, by case and table slots.
Curves = Mapping[str, Mapping[int, tuple[float, float, float]]]
# Okabe and Ito (2008), told apart with any common colour blindness; and a marker for each.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_MARKERS = "os^vDPXp"


def markdown(result: Mapping[str, Any]) -> str:
    """The whole of a result, as `Report.to_dict` gives it or JSON holds it."""
    parts = [machine_line(result["machine"]) + "."]
    if result["rates"]:
        parts[0] += f" It {Rates(**result['rates'])}."
    for suite, curves in curves_of(result).items():
        lines = [line_of(row) for row in result["measurements"] if row["suite"] == suite]
        parts += [f"### {suite}", growth_table(curves), "\n".join(["```", *lines, "```"])]
    if result["checks"]:
        parts += ["### Must hold", check_table(result["checks"])]
    if result["skipped"]:
        parts.append("\n".join(f"* left out {s['what']}: {s['reason']}" for s in result["skipped"]))
    return "\n\n".join(filter(None, parts)) + "\n"


def growth_table(curves: Curves) -> str:
    """Milliseconds, a line a case and a column a number of table slots; empty if there is one."""
    slots = sorted({count for curve in curves.values() for count in curve})
    if len(slots) < 2:
        return ""
    lines = [
        [name, *(in_milliseconds(curve[count][0]) if count in curve else "" for count in slots)]
        for name, curve in curves.items()
    ]
    return markdown_table(["ms a call, at table slots", *(f"{n:,}" for n in slots)], lines)


def check_table(checks: Sequence[Mapping[str, Any]]) -> str:
    """Every check with its bound."""
    lines = []
    for check in checks:
        measured = f"{check['value']:.3g} {check['unit']}".rstrip()
        verdict = "yes" if check["holds"] else "**no**"
        lines.append((check["name"], measured, f"{check['relation']} {check['bound']:g}", verdict))
    return markdown_table(("", "measured", "bound", "holds"), lines)


def draw_growth(result: Mapping[str, Any]) -> dict[str, Figure]:
    """Draws cost against table slots, for suites that measured several numbers of these."""
    return {
        suite: _draw(suite, curves)
        for suite, curves in curves_of(result).items()
        if any(len(curve) > 1 for curve in curves.values())
    }


def curves_of(result: Mapping[str, Any]) -> dict[str, Curves]:
    """By suite, what was timed."""
    suites: dict[str, Any] = {}
    for row in result["measurements"]:
        curves, setting = suites.setdefault(row["suite"], {}), dict(row["setting"])
        slots, _ = setting.pop("table_slots", None), setting.pop("tokens", None)
        if slots is not None and "seconds" in row:
            name = ", ".join(filter(None, (row["name"], setting_text(setting))))
            found = (row["seconds"]["median"], *row["seconds"]["quartiles"])
            curves.setdefault(name, {}).setdefault(slots, found)
    return suites


def _draw(suite: str, curves: Curves) -> Figure:
    columns = 2 if max(map(len, curves)) < 45 else 1
    with rc_context(STYLE):
        height = 3.8 + 0.2 * -(-len(curves) // columns)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots()
        for place, (name, curve) in enumerate(curves.items()):
            slots = sorted(curve)
            median, low, high = ([1e3 * curve[n][of] for n in slots] for of in range(3))
            colour = _COLOURS[place % len(_COLOURS)]
            looks = _MARKERS[place % len(_MARKERS)] + ("-" if place < len(_COLOURS) else "--")
            axes.plot(slots, median, looks, label=name, color=colour, markeredgecolor="white")
            axes.fill_between(slots, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set(xscale="log", yscale="log", xlabel="table slots")
        axes.set_ylabel(f"{suite}: milliseconds a call\n(less is better)")
        axes.xaxis.set_major_locator(FixedLocator(sorted({n for c in curves.values() for n in c})))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(True)
        figure.legend(loc="outside lower center", ncols=columns)
    return figure
