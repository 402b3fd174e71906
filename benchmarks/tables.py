"""Markdown tables of a benchmark, to be pasted: cost against table slots, and what must hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.machine import machine_line
from benchmarks.results import Check, in_bytes, in_milliseconds, setting_text

Row = Mapping[str, Any]


def markdown(result: Mapping[str, Any]) -> str:
    """The whole of a result, as `Report.to_dict` gives it or JSON holds it."""
    parts = [machine_line(result["machine"]) + "."]
    if rates := result["rates"]:
        parts[0] += (
            f" Copies at {rates['copy_bytes'] / 1e9:.3g} GB/s (read and written), multiplies "
            f"{rates['dtype']} matrices at {rates['operations'] / 1e9:,.0f} GFLOP/s."
        )
    suites = list(dict.fromkeys(row["suite"] for row in result["measurements"]))
    for suite in suites:
        rows = [row for row in result["measurements"] if row["suite"] == suite]
        parts.append(f"### {suite}")
        parts += [table for table in (growth_table(rows), detail_table(rows)) if table]
    if result["checks"]:
        parts += ["### Must hold", check_table(result["checks"])]
    if result["skipped"]:
        parts.append("\n".join(f"* left out {s['what']}: {s['reason']}" for s in result["skipped"]))
    return "\n\n".join(parts) + "\n"


def growth_table(rows: Sequence[Row]) -> str:
    """Milliseconds, a line a contestant and a column a number of table slots; empty if none."""
    timed = [row for row in rows if "seconds" in row and "table_slots" in row["setting"]]
    slots = sorted({row["setting"]["table_slots"] for row in timed})
    if len(slots) < 2:
        return ""
    lines: dict[str, dict[int, str]] = {}
    for row in timed:
        others = {k: v for k, v in row["setting"].items() if k not in ("table_slots", "tokens")}
        name = ", ".join([row["name"], *([setting_text(others)] if others else [])])
        text = in_milliseconds(row["seconds"]["median"])
        lines.setdefault(name, {}).setdefault(row["setting"]["table_slots"], text)
    body = [[name, *(cells.get(count, "") for count in slots)] for name, cells in lines.items()]
    return _table(["ms a call, at table slots", *(f"{count:,}" for count in slots)], body)


def detail_table(rows: Sequence[Row]) -> str:
    """Every measurement with its spread, its floor and its memory."""
    header = ["", "setting", "ms", "quartiles", "floor", "of copy", "of matmul"]
    header += ["temporaries", "peak", "compile s"]
    body = []
    for row in rows:
        seconds = row.get("seconds")
        spread = [in_milliseconds(end) for end in seconds["quartiles"]] if seconds else []
        body.append(
            [
                row["name"],
                setting_text(row["setting"]),
                in_milliseconds(seconds["median"]) if seconds else "",
                " to ".join(spread),
                in_milliseconds(row["floor_seconds"]) if "floor_seconds" in row else "",
                _percent(row.get("share_of_copy_bandwidth")),
                _percent(row.get("share_of_matmul_rate")),
                in_bytes(row["memory"]["temporaries"]) if "memory" in row else "",
                in_bytes(row["peak_bytes"]) if "peak_bytes" in row else "",
                f"{row['compile_seconds']:.1f}" if "compile_seconds" in row else "",
            ]
        )
    used = [place for place in range(len(header)) if place < 2 or any(line[place] for line in body)]
    return _table([header[i] for i in used], [[line[i] for i in used] for line in body])


def check_table(checks: Sequence[Row]) -> str:
    """Every check with its bound."""
    body = []
    for each in checks:
        check = Check(**{name: value for name, value in each.items() if name != "holds"})
        unit = f" {check.unit}" if check.unit else ""
        verdict = "yes" if check.holds else "**no**"
        body.append(
            [check.name, f"{check.value:.3g}{unit}", f"{check.relation} {check.bound:g}", verdict]
        )
    return _table(["", "measured", "bound", "holds"], body)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
