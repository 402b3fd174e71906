"""Running the trials of a grid: a group of one static shape at a time, task by task."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.bases import Base
from experiments.config import SweepFlags
from experiments.grid import Trial
from experiments.materials import Materials, all_rows, chunked
from experiments.progress import say
from experiments.runs import PatchHistory, RunDirectory
from smf_jax.evaluation.answers import exact_match
from smf_jax.sparse.selection import budget_size
from smf_jax.sparse.update_rule import UpdateRule
from smf_jax.sparse.usage import PoolUsage
from smf_jax.training.loop import TaskMetrics, TrialGroup
from smf_jax.training.state import count_bytes, count_parameters
from smf_jax.training.step import Settings, SparseChoices, SparseState
from smf_jax.training.trainers import Trainer, dense_trainer, lora_trainer, sparse_trainer

Scores = dict[str, Any]


@dataclass(frozen=True)
class Trains:
    """What a trial trains, told before its first step.

    Attributes:
      rows: rows of the tables that a step may change, over all pools; ``None`` for dense methods.
      parameters: numbers that a step may change.
      share: the same as a share of the model.
      optimizer_bytes: of the optimizer's state, its index of slots included.
    """

    rows: int | None
    parameters: int
    share: float
    optimizer_bytes: int

    def __str__(self) -> str:
        rows = "" if self.rows is None else f"{self.rows:,} rows, "
        return (
            f"{rows}{self.parameters:,} parameters ({self.share:.2%}), "
            f"optimizer {self.optimizer_bytes:,} bytes"
        )


@dataclass
class Sweep:
    """What all groups of a sweep share.

    Attributes:
      flags: of the command.
      base: with its memory.
      mark: fingerprint of the base.
      materials: tasks and probes.
      usage: background by pool path, or ``None``.
      run: the directory.
      devices: to run on.
      base_scores: of the probes before the stream; measured with the first group.
      failed: what failed, a line for each trial.
    """

    flags: SweepFlags
    base: Base
    mark: str
    materials: Materials
    usage: Mapping[str, PoolUsage] | None
    run: RunDirectory
    devices: Sequence[jax.Device]
    base_scores: Scores | None = None
    failed: list[str] = field(default_factory=list)


def static_size(flags: SweepFlags, base: Base, trial: Trial, length: int) -> int:
    """Static number of places ``s`` for the selected rows of a trial's step."""
    placement = base.config.memory
    if placement is None:
        raise ValueError(
            f"--base={flags.base} has no memory, which method smf trains; give --retrofit=add or "
            "--retrofit=replace"
        )
    table_slots = placement.memory.slots
    if trial.slots is not None:
        return min(budget_size(trial.slots), table_slots)
    accesses = flags.batch_size * length * placement.memory.reads_per_token
    return min(table_slots, accesses * len(placement.layers))


def make_trainer(flags: SweepFlags, base: Base, trial: Trial, length: int) -> Trainer:
    """The trainer that the trials of one group share."""
    update = UpdateRule(
        trial.optimizer,  # pyright: ignore[reportArgumentType]
        clip=flags.clip or None,
        schedule=flags.schedule,  # pyright: ignore[reportArgumentType]
        warmup_steps=flags.warmup_steps,
        schedule_steps=flags.steps_per_task,
        weight_decay=flags.weight_decay,
    )
    keep = flags.keep_optimizer_state
    if trial.method == "smf":
        size = static_size(flags, base, trial, length)
        choices = SparseChoices(
            rule=trial.rule,  # pyright: ignore[reportArgumentType]
            granularity=trial.granularity,  # pyright: ignore[reportArgumentType]
            size=size,
            update=update,
            train_alpha=flags.train_alpha,
        )
        steps = flags.steps_per_task * (flags.tasks if keep else 1)
        placement = base.config.memory
        table_slots = placement.memory.slots if placement else 0
        capacity = flags.store_rows or min(table_slots, steps * size)
        return sparse_trainer(base.model, choices, capacity, keep)
    if trial.method == "lora":
        targets = tuple(flags.lora_targets.split(","))
        return lora_trainer(base.model, update, flags.lora_rank, flags.lora_alpha, targets, keep)
    return dense_trainer(base.model, update, keep_optimizer_state=keep)


def settings_of(trial: Trial, size: int) -> Settings:
    """What tells a trial from the others of its group."""
    return Settings(
        learning_rate=jnp.asarray(trial.learning_rate, jnp.float32),
        budget=jnp.asarray(size if trial.slots is None else trial.slots, jnp.int32),
        seed=jnp.asarray(trial.seed, jnp.uint32),
    )


def what_trains(trainer: Trainer, base: Base, trial: Trial) -> Trains:
    """Counts what a trial trains, without computing anything."""
    state = jax.eval_shape(trainer.begin, base.leaves, settings_of(trial, 1))
    total = count_parameters(base.leaves)
    if not isinstance(state, SparseState):
        trained = count_parameters(state.leaves)
        return Trains(None, trained, trained / total, count_bytes(state.statistics))
    tables = state.tables.values()
    rows = sum(min(table.shape[0], trial.slots or table.shape[0]) for table in tables)
    width = next(iter(tables)).shape[1]
    trained = rows * width + count_parameters(state.scalars)
    held = count_bytes((state.stores, state.scalar_statistics))
    return Trains(rows, trained, trained / total, held)


def run_group(sweep: Sweep, trials: Sequence[Trial], advance: Callable[[int], None]) -> None:
    """Runs trials of one static shape, as many side by side as there are devices.

    Args:
      sweep: what the groups share.
      trials: of one `Trial.group`.
      advance: told how many tasks of trials are done.
    """
    flags, materials = sweep.flags, sweep.materials
    length = materials.examples[0].tokens.shape[-1]
    trainer = make_trainer(flags, sweep.base, trials[0], length)
    told = [(trial, what_trains(trainer, sweep.base, trial)) for trial in trials]
    for trains in dict.fromkeys(trains for _, trains in told):
        names = [trial.id for trial, each in told if each == trains]
        say(f"trains {trains}: {', '.join(names)}")
    devices = sweep.devices[: len(trials)]
    mesh = jax.make_mesh(
        (len(devices),), ("trial",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices
    )
    usage = sweep.usage if trials[0].method == "smf" else None
    group = TrialGroup(trainer, sweep.base.leaves, usage, mesh, flags.probe_rows)
    for start in range(0, len(trials), group.size):
        chunk = dict(told[start : start + group.size])
        _run_side_by_side(sweep, group, chunk, mesh, advance)


def _run_side_by_side(
    sweep: Sweep,
    group: TrialGroup,
    chunk: Mapping[Trial, Trains],
    mesh: Mesh,
    advance: Callable[[int], None],
) -> None:
    """Runs as many trials as the mesh has devices through the stream."""
    flags, materials, trials = sweep.flags, sweep.materials, list(chunk)
    found = {trial: sweep.run.completed(trial) for trial in trials}
    failed = {trial for trial, (_, has_failed) in found.items() if has_failed}
    done = {trial: count for trial, (count, _) in found.items()}
    waiting = [trial for trial in trials if trial not in failed]
    first = min((done[trial] for trial in waiting), default=len(materials.tasks))
    advance(first * len(trials))
    if first == len(materials.tasks):
        return
    # A chunk that does not fill the mesh runs its last trial again; nothing is kept of that.
    filled = [*trials, *[trials[-1]] * (mesh.size - len(trials))]
    length = materials.examples[0].tokens.shape[-1]
    sizes = [static_size(flags, sweep.base, t, length) if t.method == "smf" else 1 for t in filled]
    state, settings = group.begin([settings_of(t, s) for t, s in zip(filled, sizes, strict=True)])
    if sweep.base_scores is None:
        sweep.base_scores = _measure(group, state, materials, None)[0]
    histories = {t: _history(sweep, group, state) for t in trials if t.method == "smf"}
    if first:
        leaves = [_leaves_after(sweep, trial, first, histories) for trial in filled]
        state = group.resume(state, leaves)
    replayed = _replayed_rows(flags, trials[0])
    examples = [chunked(batch, flags.batch_size) for batch in materials.examples]
    for task in range(first, len(materials.tasks)):
        batches = [
            materials.batches(task, t.seed, flags.steps_per_task, flags.batch_size, replayed)
            for t in filled
        ]
        began = time.monotonic()
        with _profiled(flags.profile if task == first else ""):
            state, metrics = group.train(state, batches, examples[task], settings)
        seconds = time.monotonic() - began
        scores = _measure(group, state, materials, task)
        for place, trial in enumerate(trials):
            if task < done[trial] or trial in failed:
                continue
            row = _row(sweep, trial, chunk[trial], task, metrics, place, scores[place])
            row["seconds"] = seconds
            if row["failed_step"] is None:
                row["rows_changed"] = _save(sweep, group, state, place, trial, task, histories)
            else:
                failed.add(trial)
                sweep.failed.append(
                    f"{trial.id}: task {task}, step {row['failed_step']}: loss or gradient is not "
                    "finite; its last good checkpoint is that of the task before"
                )
            sweep.run.append(row)
            say(_line(row))
        advance(len(trials))
        if failed.issuperset(trials):
            advance((len(materials.tasks) - task - 1) * len(trials))
            return


def _replayed_rows(flags: SweepFlags, trial: Trial) -> int:
    """Rows of base data in a batch, so that they are the share that was asked for."""
    if trial.method != "replay":
        return 0
    return max(1, round(flags.batch_size * flags.replay_share / (1 - flags.replay_share)))


def _history(sweep: Sweep, group: TrialGroup, state: Any) -> PatchHistory:
    paths = group.trainer.trained(state)
    tables = {path: np.asarray(sweep.base.leaves[path]) for path in paths}
    return PatchHistory(tables, sweep.mark)


def _leaves_after(
    sweep: Sweep, trial: Trial, tasks: int, histories: Mapping[Trial, PatchHistory]
) -> Any:
    """The trained leaves of a trial after its first tasks, from its checkpoints."""
    if trial in histories:
        return histories[trial].take_up(sweep.run.load_patches(trial, tasks))
    return sweep.run.load_leaves(trial, tasks - 1)


def _measure(group: TrialGroup, state: Any, materials: Materials, task: int | None) -> list[Scores]:
    """Every trial's probes: the tasks so far, and those that are no part of the stream."""
    scores: list[Scores] = [{} for _ in range(group.size)]
    if task is not None:
        probes = [*materials.seen[: task + 1], *materials.unseen[: task + 1]]
        right = group.answers(state, all_rows(probes))
        ends = np.cumsum([len(probe.question) for probe in probes])
        for place, score in enumerate(scores):
            parts = np.split(right[place], ends[:-1])
            matched = [exact_match(p, part) for p, part in zip(probes, parts, strict=True)]
            score["seen"], score["unseen"] = matched[: task + 1], matched[task + 1 :]
    for name, probe in materials.questions.items():
        right = group.answers(state, probe.batch)
        for place, score in enumerate(scores):
            score[f"question_{name}"] = exact_match(probe, right[place])
    for name, windows in materials.texts.items():
        for score, loss in zip(scores, group.text_losses(state, windows), strict=True):
            score[f"text_{name}"] = loss
    return scores


def _row(
    sweep: Sweep,
    trial: Trial,
    trains: Trains,
    task: int,
    metrics: TaskMetrics,
    place: int,
    scores: Scores,
) -> dict[str, Any]:
    """The row of one task of one trial; README.md lists the keys."""
    flags, materials, base = sweep.flags, sweep.materials, sweep.base_scores or {}
    first_step = task * flags.steps_per_task if flags.keep_optimizer_state else 0
    failed = int(metrics.failed_step[place])
    row = {
        "trial": trial.id,
        **asdict(trial),
        "task": task,
        "task_name": materials.tasks[task].name,
        "facts": len(materials.tasks[task].facts),
        "steps": flags.steps_per_task,
        "seen": scores["seen"][task],
        "unseen": scores["unseen"][task],
        "stream_seen": float(np.mean(scores["seen"])),
        "stream_unseen": float(np.mean(scores["unseen"])),
        "retention": scores["unseen"],
        "known": None,
        "known_base": None,
        "text_loss": None,
        "text_loss_base": None,
        "loss_first": float(metrics.losses[place, 0]),
        "loss_last": float(metrics.losses[place, -1]),
        "rows_selected": float(metrics.selected[place].mean()) if trial.method == "smf" else None,
        "rows_changed": None,
        "trainable_parameters": trains.parameters,
        "trainable_share": trains.share,
        "optimizer_bytes": trains.optimizer_bytes,
        "failed_step": None if failed < 0 else failed - first_step,
    }
    for short, names, prefix in (
        ("known", materials.questions, "question"),
        ("text_loss", materials.texts, "text"),
    ):
        for number, name in enumerate(names):
            key = short if number == 0 else f"{prefix}_{name}"
            row[key] = scores[f"{prefix}_{name}"]
            row[f"{key}_base"] = base.get(f"{prefix}_{name}")
    return row


def _save(
    sweep: Sweep,
    group: TrialGroup,
    state: Any,
    place: int,
    trial: Trial,
    task: int,
    histories: Mapping[Trial, PatchHistory],
) -> int | None:
    """Saves what a task changed; returns the rows of its patch, for methods that have one."""
    if trial.method != "smf":
        keep_all = sweep.flags.keep_checkpoints == "all"
        sweep.run.save_leaves(trial, task, group.trained(state, place), sweep.mark, keep_all)
        return None
    rows = {}
    for pool, written in state.written.items():
        slots = np.flatnonzero(np.asarray(written[place]))
        # Gathered on the device: the table itself never travels.
        rows[pool] = slots, np.asarray(state.tables[pool][place, slots])
    scalars = {path: np.asarray(leaf[place]) for path, leaf in state.scalars.items()}
    patch = histories[trial].patch(sweep.materials.tasks[task].name, rows, scalars)
    sweep.run.save_patch(trial, task, patch)
    return patch.rows


def _line(row: Mapping[str, Any]) -> str:
    """One finished task, for the terminal."""
    parts = [
        f"{row['trial']} task {row['task'] + 1}:",
        f"learned {row['seen']:.1%} seen, {row['unseen']:.1%} unseen;",
        f"stream so far {row['stream_unseen']:.1%};",
    ]
    if row["known"] is not None:
        parts.append(f"known {row['known']:.1%};")
    if row["text_loss"] is not None:
        parts.append(f"text loss {row['text_loss']:.3f};")
    if row["rows_changed"] is not None:
        parts.append(f"{row['rows_changed']:,} rows;")
    if row["failed_step"] is not None:
        parts.append(f"FAILED at step {row['failed_step']};")
    return " ".join([*parts, f"{row['seconds']:.1f} s"])


@contextlib.contextmanager
def _profiled(directory: str) -> Any:
    """Traces what runs inside into a directory, if one is named."""
    if not directory:
        yield
        return
    with jax.profiler.trace(directory):
        yield
