"""The report of a sweep: `summary.csv`, `report.md` and its pictures, from the files of the run."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from experiments.report.figures import draw_pictures
from experiments.report.summary import Outcome, Row, Setting, average, finished, summarise
from experiments.report.tables import (
    headlines,
    health_table,
    matched_tables,
    probe_table,
    summary_table,
)
from smf_jax.continual.results import OF_BASE
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.slot_health import read_slot_health
from smf_jax.continual.trial import Trial

PICTURES = ("frontier", "retention", "slots")

WORDS = """\
Accuracies are in percent, first in the paraphrases that a fact was trained in (seen), then in
paraphrases that only other facts were trained in (unseen). *Learned*: each task asked right after
it was taught, mean over tasks. *At the end*: all tasks after the last one. *Known kept*: accuracy
on the known facts after the last task over that of the base. *Text loss*: its rise on neutral text,
in nats a token. *Rows a task*: rows of the table that a task changed. ± is half the width of the
95 % interval of the mean over seeds. **Bold**: the highest harmonic mean of the new facts known at
the end (unseen) and the known facts kept."""
FRONTIER = """\
Each mark is a setting, small ones its seeds; along a curve the learning rate rises. Lower and
further to the right is better."""
PROBES = """\
Held-out probes after the last task, of the base in the first line; behind each the change against
the base, where a plus is better. docs/probes.md says what each metric is."""
HEALTH = """\
How the slots are used by general text: by the background, by the base over its first batches, and
by each model after the stream over the same batches, mean over seeds. *Drift*: KL divergence of the
base's use from the model's, nats. slot_health.json has every trial."""
RETENTION = "Accuracy on each task so far, in unseen paraphrases; each method at its best setting."
SLOTS = "Share of the slots changed by the task of the row that the task of the column changed too."


def write_report(directory: Path) -> str:
    """Write the report of a run from its files: results, slot health and patches of all shards.

    Args:
      directory: the run; gets what `draw_report` writes.

    Returns:
      The summary table, for the terminal.

    Raises:
      FileNotFoundError: if the directory is no run.
      ValueError: if a patch is damaged.
    """
    directory = Path(os.path.abspath(directory))  # its last part is the title, as of `.`
    run = RunDirectory(str(directory))
    probes, rows = run.config().probes.probes, run.rows()
    trials = [outcome.trial for outcome in summarise(rows)]
    health = read_slot_health(directory)
    return draw_report(directory, rows, read_changed_slots(run, trials), health, probes)


def read_changed_slots(
    run: RunDirectory, trials: Iterable[Trial]
) -> dict[str, list[Int[np.ndarray, "_"]]]:
    """Read the slots that each task of each trial changed, for the trials that have patches.

    Several pools lie one after another in the numbering.
    """
    found = {}
    for trial in trials:
        if trial.rule is None:  # it selects no rows, and saves no patches
            continue
        patches = run.load_patches(trial, run.completed(trial)[0])
        paths = sorted({path for patch in patches for path in patch.pools})
        found[trial.id] = [
            np.concatenate(
                [
                    patch.pools[path].slots + place * patch.pools[path].table_slots
                    for place, path in enumerate(paths)
                    if path in patch.pools
                ]
                or [np.zeros(0, np.int32)]
            )
            for patch in patches
        ]
    return found


def draw_report(
    directory: Path,
    rows: Iterable[Row],
    changed_slots: Mapping[str, Sequence[Int[np.ndarray, "_"]]],
    health: Mapping[str, Any] | None = None,
    probes: str = "",
) -> str:
    """Write the tables and the pictures of a run, over those of an earlier report.

    Args:
      directory: the run; gets `summary.csv`, `report.md`, `frontier.png`, and `retention.png` and
          `slots.png` where there is something to draw.
      rows: the rows of its `results.jsonl`; trials may have failed or be unfinished.
      changed_slots: id of a trial -> the distinct slots that each of its tasks changed.
      health: the slots' use before and after the stream, as `read_slot_health` reads it.
      probes: the value of `--probes` that the run was given, for the kinds of its probes.

    Returns:
      The summary table, for the terminal.
    """
    outcomes = summarise(rows, probes)
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
    text = render(directory.name, averages, absent, tuple(pictures), health)
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
    name: str,
    averages: Sequence[Setting],
    absent: Sequence[str],
    pictures: Sequence[str],
    health: Mapping[str, Any] | None = None,
) -> str:
    """Return the text of `report.md`.

    Args:
      name: of the run.
      averages: the settings, means over seeds.
      absent: what the means leave out, a line each.
      pictures: the names of the pictures beside the text.
      health: as for `draw_report`.
    """
    parts = [f"# {name}", summary_table(averages), WORDS]
    if absent:
        parts += ["Not in the means and the pictures:", "\n".join(f"- {line}" for line in absent)]
    parts += [
        "## Learned against forgotten",
        "![learned against forgotten](frontier.png)",
        FRONTIER,
    ]
    if headlines(averages):
        parts += ["## Probes", probe_table(averages), PROBES]
    if averages:
        parts += ["## Forgetting at matched learning", matched_tables(averages)]
    if "retention" in pictures:
        parts += ["## Retention", "![accuracy on each task, after each task](retention.png)"]
        parts += [RETENTION]
    if "slots" in pictures:
        parts += ["## Changed slots", "![overlap of changed slots](slots.png)", SLOTS]
    used = health_table(averages, health) if health else ""
    if used:
        parts += ["## Slot health", used, HEALTH]
    return "\n\n".join(parts) + "\n"


def summary_csv(outcomes: Iterable[Outcome]) -> str:
    """Return a line a trial: its settings and what it came to, empty where nothing was measured."""
    settings = [field.name for field in fields(Trial)]
    outcomes = tuple(outcomes)
    apart = ("trial", "retention", "probes", "probe_bases", "metrics")
    results = [f.name for f in fields(Outcome) if f.name not in apart]
    probes = dict.fromkeys(key for outcome in outcomes for key in outcome.probes)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    of_probes = [name for key in probes for name in (key, key + OF_BASE)]
    writer.writerow(["trial", *settings, *results, *of_probes])
    for outcome in outcomes:
        values = [getattr(outcome.trial, name) for name in settings]
        values += [getattr(outcome, name) for name in results]
        for key in probes:
            values += [each.get(key, math.nan) for each in (outcome.probes, outcome.probe_bases)]
        writer.writerow([outcome.trial.id, *map(_cell, values)])
    return text.getvalue()


def _cell(value: object) -> object:
    """Write a number of a CSV file: six digits, nothing for NaN."""
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"
