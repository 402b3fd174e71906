"""The report of a sweep: `summary.csv`, `report.md` and its pictures, from the files of the run."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from experiments.report import tables
from experiments.report.figures import ChangedSlots, draw_pictures
from experiments.report.kinds import KINDS, kinds_cells
from experiments.report.page import PAGE, can_draw, sweep_page
from experiments.report.summary import (
    Outcome,
    Row,
    Setting,
    average,
    finished,
    last_task,
    summarise,
)
from smf_jax.checkpoints.files import whole_file, write_text
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.grid import grid
from smf_jax.continual.results import IN_CONTEXT, OF_BASE
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.slot_health import read_slot_health
from smf_jax.continual.trial import Trial
from smf_jax.paths import as_path, is_remote
from smf_jax.progress import say

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
TRANSFER = """\
In percent, in unseen paraphrases. *Average*: all tasks so far, mean over the stream. *Backward*
and *forward*: transfer (1706.08840); *forgetting* (1801.10112). *Gain*: all tasks after the last
one less before the stream. *Drop*: accuracy on probes beside the stream, before it less after the
last task, mean over the probes. *First tenth* and *fifth*: of the accuracy on the first tasks right
after each of them, what is left at the end. docs/metrics.md has the formulas."""
HEALTH = """\
How the slots are used by general text: by the background, by the base over its first batches, and
by each model after the stream over the same batches, mean over seeds. *Drift*: KL divergence of the
base's use from the model's, nats. slot_health.json has every trial."""
RETENTION = "Accuracy on each task so far, in unseen paraphrases; each method at its best setting."
SLOTS = "Share of the slots changed by the task of the row that the task of the column changed too."


@dataclass(frozen=True)
class Planned:
    """What a run is to come to: the ids of its trials, and their tasks."""

    trials: tuple[str, ...]
    tasks: int

    @classmethod
    def of(cls, config: SweepConfig) -> Planned | None:
        """That of a run's configuration; ``None`` if it is of a version with other choices."""
        try:
            trials = grid(config.grid, config.own)
        except ValueError as error:
            say(f"which trials are still to come is not told: {error}")
            return None
        return cls(tuple(trial.id for trial in trials), config.stream.tasks)


def write_report(directory: Path) -> str:
    """Write the report of a run from its files, as `draw_report` does; return the summary table.

    Raises:
      FileNotFoundError: if the directory is no run.
      ValueError: if a patch is damaged.
    """
    if not is_remote(directory):
        directory = as_path(os.path.abspath(directory))  # its last part is the title, as of `.`
    run = RunDirectory(str(directory))
    config = run.config()
    with run.locks.starting():
        rows = run.rows()
        trials = [outcome.trial for outcome in summarise(rows)]
        health, slots = read_slot_health(directory), read_changed_slots(run, trials)
        answers = {trial.id: found for trial in trials if (found := run.read_answers(trial))}
        told = (config.probes.probes, answers, Planned.of(config))
        return draw_report(directory, rows, slots, health, *told)


def read_changed_slots(run: RunDirectory, trials: Iterable[Trial]) -> ChangedSlots:
    """Read what slots each task of each trial with patches changed; pools follow one another."""
    found: dict[str, list[Int[np.ndarray, "_"]]] = {}
    for trial in trials:
        if trial.rule is None:  # it selects no rows, and saves no patches
            continue
        patches = run.load_patches(trial, run.completed(trial)[0])
        paths = sorted({path for patch in patches for path in patch.pools})
        found[trial.id] = []
        for patch in patches:
            places = ((place, patch.pools.get(path)) for place, path in enumerate(paths))
            pools = ((place, pool) for place, pool in places if pool is not None)
            slots = [pool.slots + place * pool.table_slots for place, pool in pools]
            found[trial.id].append(np.concatenate([np.zeros(0, np.int32), *slots]))
    return found


def draw_report(
    directory: Path,
    rows: Iterable[Row],
    slots: ChangedSlots,
    health: Any = None,
    probes: str = "",
    answers: Mapping[str, Any] | None = None,
    planned: Planned | None = None,
) -> str:
    """Write the tables and the pictures of a run, over those of an earlier report.

    These are `summary.csv`, `report.md`, `report.html` if plotly is installed, `frontier.png`, and
    `retention.png` and `slots.png` if there is something to draw. Trials in the rows may have
    failed or be unfinished; `slots` has, by their ids, the distinct slots that each task changed,
    `health` is as of `read_slot_health`, `answers` are rows of `experiments.answers` by trial.
    What was `planned` and is not there, is told.
    """
    rows = tuple(rows)
    outcomes = summarise(rows, probes)
    averages = average(finished(outcomes))
    known = dict.fromkeys((*(planned.trials if planned else ()), *(row["trial"] for row in rows)))
    absent = left_out(outcomes)
    if planned and averages and (so_far := averages[0].outcomes[0].tasks) < planned.tasks:
        absent.insert(0, f"all trials from task {so_far + 1} on: the run is of {planned.tasks}")
    pictures = draw_pictures(averages, slots, note="\n".join(absent[:3]))
    for name in PICTURES:
        path = directory / f"{name}.png"
        if name in pictures:
            with whole_file(path) as partial:
                pictures[name].savefig(partial, format="png")
        else:
            path.unlink(missing_ok=True)
    write_text(directory / "summary.csv", summary_csv(outcomes))
    page = directory / PAGE
    if can_draw():
        write_text(page, sweep_page(directory.name, averages, slots, answers))
    else:
        page.unlink(missing_ok=True)
        say(f"{PAGE} is left out: plotly is not installed (pip install 'plotly>=6')")
    absent += not_begun(outcomes, known)  # which may be most of a grid, too many for a picture
    text = render(directory.name, averages, absent, pictures, health)
    write_text(directory / "report.md", text)
    return tables.summary_table(averages)


def not_begun(outcomes: Sequence[Outcome], known: Iterable[str]) -> list[str]:
    """Name the trials that come to nothing, as their first row is not there."""
    there = {outcome.trial.id for outcome in outcomes}
    return [f"{trial} has no row of its first task" for trial in known if trial not in there]


def left_out(outcomes: Sequence[Outcome]) -> list[str]:
    """Name the trials that the means and the pictures leave out, and say why."""
    tasks = last_task(outcomes)
    present, lines = finished(outcomes), []
    for each in outcomes:
        if each not in present:
            unfinished = f"has finished {each.tasks} of {tasks} tasks"
            failed = each.failed and f"failed at {each.failed}"
            lines.append(f"{each.trial.id} {failed or unfinished}")
    return lines


def render(
    name: str, averages: Sequence[Setting], absent: Sequence[str], drawn: Iterable[str], health: Any
) -> str:
    """Return the text of `report.md`, with a line for each trial that the means leave out."""
    parts = [f"# {name}", tables.summary_table(averages), WORDS]
    if absent:
        parts += ["Not in the means and the pictures:", "\n".join(f"- {line}" for line in absent)]
    parts += ["## Learned against forgotten", "![learned against forgotten](frontier.png)"]
    parts.append(FRONTIER)
    if tables.headlines(averages):
        parts += ["## Probes", tables.probe_table(averages), PROBES]
    if kinds := kinds_cells(averages):
        parts += ["## Kinds of question", tables.markdown_table(kinds[0], kinds[1:]), KINDS]
    if averages:
        parts += ["## Over the stream", tables.transfer_table(averages), TRANSFER]
        parts += ["## Forgetting at matched learning", tables.matched_tables(averages)]
    if "retention" in drawn:
        parts += ["## Retention", "![accuracy on each task, after each task](retention.png)"]
        parts += [RETENTION]
    if "slots" in drawn:
        parts += ["## Changed slots", "![overlap of changed slots](slots.png)", SLOTS]
    if health and (used := tables.health_table(averages, health)):
        parts += ["## Slot health", used, HEALTH]
    return "\n\n".join(parts) + "\n"


def summary_csv(outcomes: Iterable[Outcome]) -> str:
    """Return a line a trial: its settings and what it came to, empty where nothing was measured."""
    outcomes = tuple(outcomes)
    apart = ("trial", "retention", "probes", "probe_bases", "kinds_in_context", "metrics")
    header = ["trial", *(field.name for field in fields(Trial))]
    header += [field.name for field in fields(Outcome) if field.name not in apart]
    for key in dict.fromkeys(key for outcome in outcomes for key in outcome.probes):
        header += [key, key + OF_BASE]
    for key in dict.fromkeys(key for outcome in outcomes for key in outcome.kinds_in_context):
        header.append(key + IN_CONTEXT)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for outcome in outcomes:
        cells = vars(outcome) | vars(outcome.trial) | {"trial": outcome.trial.id}
        cells["varied"] = " ".join(f"{flag}={value}" for flag, value in outcome.trial.varied)
        cells |= outcome.probes
        cells |= {key + OF_BASE: value for key, value in outcome.probe_bases.items()}
        cells |= {key + IN_CONTEXT: value for key, value in outcome.kinds_in_context.items()}
        writer.writerow([_cell(cells.get(name, math.nan)) for name in header])
    return text.getvalue()


def _cell(value: object) -> object:
    """Write a number of a CSV file: six digits, nothing for NaN."""
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"
