"""Running the trials of a grid: a group of one static shape at a time, task by task."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from smf_jax.continual.base import Base
from smf_jax.continual.config import SweepFlags
from smf_jax.continual.grid import Trial
from smf_jax.continual.methods import (
    TrainableSummary,
    count_trainable,
    make_trainer,
    replayed_rows,
    settings_of,
    static_size,
)
from smf_jax.continual.patch_history import PatchHistory
from smf_jax.continual.results import Scores, measure, result_line, result_row
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.stream_data import StreamData, chunked
from smf_jax.continual.trial_group import TaskMetrics, TrialGroup
from smf_jax.evaluation.scorer import Scorer
from smf_jax.progress import say
from smf_jax.sharding import TRIAL, device_mesh, unstack
from smf_jax.sparse.usage import PoolUsage


@dataclass
class Sweep:
    """What all groups of a sweep share.

    Attributes:
      flags: of the command.
      base: with its memory.
      base_fingerprint: fingerprint of the base.
      stream_data: tasks and probes.
      usage: background by pool path, or ``None``.
      run: the directory.
      devices: to run on.
      base_scores: of the probes before the stream; measured with the first group.
      failed: what failed, a line for each trial.
      scorer: of the base's architecture, for the probes that are named by their kind.
    """

    flags: SweepFlags
    base: Base
    base_fingerprint: str
    stream_data: StreamData
    usage: Mapping[str, PoolUsage] | None
    run: RunDirectory
    devices: Sequence[jax.Device]  # pyright: ignore[reportInvalidTypeForm]
    base_scores: Scores | None = None
    failed: list[str] = field(default_factory=list)
    scorer: Scorer = field(init=False)

    def __post_init__(self) -> None:
        self.scorer = Scorer(self.base.model, self.flags.eval_batch_size)


@dataclass(frozen=True)
class SideBySide:
    """Trials that run at once, one on each device of the group's mesh.

    Attributes:
      trains: what each of them trains.
      done: how many tasks of each an earlier run has left behind.
      failed: those that have failed, which are not run on.
      histories: of the trials of method ``smf``.
    """

    trains: Mapping[Trial, TrainableSummary]
    done: Mapping[Trial, int]
    failed: set[Trial]
    histories: Mapping[Trial, PatchHistory]

    @property
    def trials(self) -> list[Trial]:
        """In the order of the devices."""
        return list(self.trains)

    def is_due(self, trial: Trial, task: int) -> bool:
        """Whether a task of a trial has yet to be told and kept."""
        return task >= self.done[trial] and trial not in self.failed


def run_group(sweep: Sweep, trials: Sequence[Trial], advance: Callable[[int], None]) -> None:
    """Runs trials of one static shape, as many side by side as there are devices.

    Args:
      sweep: what the groups share.
      trials: of one `Trial.group`.
      advance: told how many tasks of trials are done.
    """
    flags, stream_data = sweep.flags, sweep.stream_data
    trainer = make_trainer(flags, sweep.base, trials[0], stream_data)
    told = [(trial, count_trainable(flags, trainer, sweep.base, trial)) for trial in trials]
    for trains in dict.fromkeys(trains for _, trains in told):
        names = [trial.id for trial, each in told if each == trains]
        say(f"trains {trains}: {', '.join(names)}")
    mesh = device_mesh(TRIAL, sweep.devices[: len(trials)])
    usage = sweep.usage if trials[0].method == "smf" else None
    group = TrialGroup(trainer, sweep.base.params, usage, mesh, flags.eval_batch_size)
    for start in range(0, len(trials), group.size):
        chunk = dict(told[start : start + group.size])
        _run_side_by_side(sweep, group, chunk, mesh, advance)


def _run_side_by_side(
    sweep: Sweep,
    group: TrialGroup,
    chunk: Mapping[Trial, TrainableSummary],
    mesh: Mesh,
    advance: Callable[[int], None],
) -> None:
    """Runs as many trials as the mesh has devices through the stream."""
    flags, stream_data = sweep.flags, sweep.stream_data
    tasks, together = len(stream_data.tasks), _take_stock(sweep, group, chunk)
    first = min((together.done[t] for t in chunk if t not in together.failed), default=tasks)
    if flags.keep_optimizer_state and first < tasks:
        first = 0  # checkpoints hold no moments: what was done is replayed, to the same bits
    advance(first * len(chunk))
    if first == tasks:
        return
    # A chunk that does not fill the mesh runs its last trial again; nothing is kept of that.
    filled = together.trials + [together.trials[-1]] * (mesh.size - len(chunk))
    sizes = [
        static_size(flags, sweep.base, t, stream_data) if t.method == "smf" else 1 for t in filled
    ]
    state, settings = group.begin([settings_of(t, s) for t, s in zip(filled, sizes, strict=True)])
    if sweep.base_scores is None:
        sweep.base_scores = _measure(sweep, group, state, None)[0]
    replayed = replayed_rows(flags, filled[0])
    for task in range(first, tasks):
        state = _take_up(sweep, group, state, together, filled, task)
        batches = [
            stream_data.batches(
                task,
                t.seed,
                flags.steps_per_task,
                flags.batch_size - replayed,
                replayed,
                by_fact=t.batch_order == "facts",
            )
            for t in filled
        ]
        examples = chunked(stream_data.examples[task], flags.batch_size)
        began = time.monotonic()
        with _profiled(flags.profile if task == first else ""):
            # The rule `random` draws anew for each task, and a resumed task draws the same again.
            of_task = settings._replace(seed=settings.seed + np.uint32(task * 1_000_003))
            state, metrics = group.train(state, batches, examples, of_task)
        seconds = time.monotonic() - began
        _tell(sweep, group, state, together, task, metrics, seconds)
        advance(len(chunk))
        if together.failed.issuperset(chunk):
            advance((tasks - task - 1) * len(chunk))
            return


def _take_stock(
    sweep: Sweep, group: TrialGroup, chunk: Mapping[Trial, TrainableSummary]
) -> SideBySide:
    """What an earlier run has left of these trials."""
    done, failed = {}, set()
    for trial in chunk:
        done[trial], failed_step = sweep.run.completed(trial)
        if failed_step is not None:
            failed.add(trial)
            sweep.failed.append(_failure(sweep.flags, trial, done[trial], failed_step))
        else:
            sweep.run.forget(trial, done[trial])
    sparse = [trial for trial in chunk if trial.method == "smf"]
    histories = {trial: _history(sweep, group, trial) for trial in sparse}
    return SideBySide(chunk, done, failed, histories)


def _history(sweep: Sweep, group: TrialGroup, trial: Trial) -> PatchHistory:
    """Of a trial that has changed nothing yet."""
    trainer, base = group.trainer, sweep.base.params
    paths = trainer.trained(jax.eval_shape(trainer.begin, base, settings_of(trial, 1)))
    return PatchHistory({path: np.asarray(base[path]) for path in paths}, sweep.base_fingerprint)


def _take_up(
    sweep: Sweep,
    group: TrialGroup,
    state: Any,
    together: SideBySide,
    filled: Sequence[Trial],
    task: int,
) -> Any:
    """The state with the leaves, from their checkpoints, of trials whose first new task this is.

    Until then such a trial runs idle beside those that are behind it.
    """
    due = {t for t in together.trials if task and together.done[t] == task} - together.failed
    if not due:
        return state
    params = {}
    for trial in due:
        if trial in together.histories:
            patches = sweep.run.load_patches(trial, task)
            params[trial] = together.histories[trial].take_up(patches)
        elif not sweep.flags.keep_optimizer_state:
            params[trial] = sweep.run.load_params(trial, task - 1)
    if sweep.flags.keep_optimizer_state:
        return state
    everyone = [
        params[trial] if trial in params else jax.device_get(group.trained(state, place))
        for place, trial in enumerate(filled)
    ]
    return group.resume(state, everyone)


def _tell(
    sweep: Sweep,
    group: TrialGroup,
    state: Any,
    together: SideBySide,
    task: int,
    metrics: TaskMetrics,
    seconds: float,
) -> None:
    """Measures, keeps and tells what a task has come to."""
    scores = _measure(sweep, group, state, task)
    for place, trial in enumerate(together.trials):
        if not together.is_due(trial, task):
            continue
        row = result_row(
            sweep.flags,
            sweep.stream_data,
            sweep.base_scores or {},
            trial,
            together.trains[trial],
            task,
            metrics,
            place,
            scores[place],
        )
        row["seconds"] = seconds
        if row["failed_step"] is None:
            row["rows_changed"] = _save(sweep, group, state, together, place, task)
        else:
            together.failed.add(trial)
            sweep.failed.append(_failure(sweep.flags, trial, task, row["failed_step"]))
        sweep.run.append(row)
        if row["failed_step"] is None and sweep.flags.keep_checkpoints == "last":
            sweep.run.drop_params_before(trial, task)
        say(result_line(row))


def _measure(sweep: Sweep, group: TrialGroup, state: Any, task: int | None) -> list[Scores]:
    """Every trial's probes after a task, ``None`` for none."""
    alpha = sweep.flags.lora_alpha
    return measure(group, state, sweep.stream_data, task, sweep.scorer, alpha)


def _save(
    sweep: Sweep, group: TrialGroup, state: Any, together: SideBySide, place: int, task: int
) -> int | None:
    """Saves what a task changed; returns the rows of its patch, for methods that have one."""
    trial = together.trials[place]
    if trial not in together.histories:
        sweep.run.save_params(trial, task, group.trained(state, place), sweep.base_fingerprint)
        return None
    rows = {}
    for pool, written in state.written.items():
        slots = np.flatnonzero(unstack(written, place))
        # Gathered on the device: the table itself never travels. Padded to a power of two, so that
        # few lengths are compiled.
        padded = np.resize(slots, 1 << len(slots).bit_length())
        new = unstack(state.tables[pool], place, padded)
        rows[pool] = slots, np.asarray(new)[: len(slots)]
    scalars = {path: np.asarray(leaf) for path, leaf in unstack(state.scalars, place).items()}
    patch = together.histories[trial].patch(sweep.stream_data.tasks[task].name, rows, scalars)
    sweep.run.save_patch(trial, task, patch)
    return patch.rows


def _failure(flags: SweepFlags, trial: Trial, task: int, step: int) -> str:
    """Why a trial did not go on, for the terminal."""
    cause = "loss, gradient or result is not finite"
    if flags.store_rows and trial.method == "smf":
        cause += f", or it wanted more rows than --store_rows={flags.store_rows}"
    kept = f"that of task {task - 1}" if task else "the base"
    return f"{trial.id}: task {task}, step {step}: {cause}; its last good checkpoint is {kept}"


@contextlib.contextmanager
def _profiled(directory: str) -> Iterator[None]:
    """Traces what runs inside into a directory, if one is named."""
    if not directory:
        yield
        return
    with jax.profiler.trace(directory):
        yield
