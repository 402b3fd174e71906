"""Running the trials of a grid: a group of one static shape at a time, task by task."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from smf_jax.continual.devices import mesh_for
from smf_jax.continual.methods import METHODS
from smf_jax.continual.methods.method import Method, Setup, TrainableSummary, settings_of
from smf_jax.continual.plan import setup_of
from smf_jax.continual.results import ResultRow
from smf_jax.continual.scores import Scores, measure, measure_in_context, result_line
from smf_jax.continual.step_checkpoints import StepCheckpoints
from smf_jax.continual.step_log import Begun
from smf_jax.continual.sweep_state import Sweep
from smf_jax.continual.task_input import task_input
from smf_jax.continual.task_row import task_row
from smf_jax.continual.trial import Trial
from smf_jax.continual.trial_group import Pauses, TaskMetrics, TrialGroup
from smf_jax.continual.trial_saves import TrialSaves
from smf_jax.continual.writer import Writer
from smf_jax.evaluation.probe import refer_to_base
from smf_jax.paths import as_path, copy
from smf_jax.processes import are_several
from smf_jax.progress import say


class Ended(NamedTuple):
    """A task of one trial that is over, and what is yet to be written of it."""

    row: ResultRow
    losses: np.ndarray  # ``(steps,)``
    save: Callable[[], None] | None  # writes the checkpoint; ``None`` if the task failed


@dataclass
class TrialBatch:
    """Trials of one group that run at once, one on each device of its mesh."""

    sweep: Sweep  # what all groups share
    method: Method[Any]  # of the trials
    setup: Setup  # of the method
    group: TrialGroup  # its compiled functions
    trains: Mapping[Trial, TrainableSummary]  # what each of the trials trains
    done: dict[Trial, int] = field(default_factory=dict)  # tasks that an earlier run has left
    failed: set[Trial] = field(default_factory=set)  # those that have failed, which are not run on
    begun: dict[Trial, Path] = field(default_factory=dict)  # those left within the next task
    # Whether tasks that are done are run again, to the same bits, for the optimizer's state, which
    # outlives them: of checkpoints only those within a task hold it.
    replays: bool = False

    def __post_init__(self) -> None:
        """Finds what an earlier run has left of the trials."""
        sweep = self.sweep
        self.writer = Writer()
        self.steps = StepCheckpoints(sweep.run, sweep.base_fingerprint, self.writer)
        patched = self.trains if self.method.artefact == "patch" else ()
        base, fingerprint = sweep.base.params, sweep.base_fingerprint
        self.saves = TrialSaves(sweep.run, self.group, base, fingerprint, patched)
        for trial in self.trains:
            self.done[trial], failed_step = sweep.run.completed(trial)
            if failed_step is not None:
                self._fail(trial, self.done[trial], failed_step)
            if found := self.steps.find(trial, self.done[trial]):
                self.begun[trial] = found
        tasks = len(sweep.stream_data.tasks)
        due = {t for t in self.trains if self.done[t] < tasks} - self.failed
        self.replays = self.setup.training.keep_optimizer_state and not due <= self.begun.keys()
        if self.replays:
            self.begun.clear()

    @property
    def trials(self) -> list[Trial]:
        """In the order of the devices."""
        return list(self.trains)

    @property
    def filled(self) -> list[Trial]:
        """A trial for every device; the last runs again where there are fewer, unkept."""
        return self.trials + [self.trials[-1]] * (self.group.size - len(self.trains))

    @property
    def first(self) -> int:
        """The first task that is yet to be done by one of the trials."""
        tasks = len(self.sweep.stream_data.tasks)
        going = [t for t in self.trains if t not in self.failed]
        first = min((self.done[t] for t in going), default=tasks)
        return 0 if first < tasks and self.replays else first

    def run(self, advance: Callable[[int], None]) -> None:
        """Runs the trials through the stream; ``advance`` is told how many tasks are done."""
        tasks, first = len(self.sweep.stream_data.tasks), self.first
        advance(first * len(self.trains))
        if first == tasks:
            return
        settings = [settings_of(t, self.method.size(self.setup, t)) for t in self.filled]
        state, settings = self.group.begin(settings)
        if not self.sweep.is_referred:
            refer_to_base(self.sweep.stream_data.named, self.sweep.scorer, self.sweep.base.params)
            self.sweep.is_referred = True
        if self.sweep.base_scores is None:
            sweep = self.sweep
            told = (sweep.config.probes, sweep.base, sweep.stream_data, sweep.scorer)
            sweep.base_scores = self._measure(state, None)[0] | measure_in_context(*told)
        going = [t for t in self.trials if self.done[t] < tasks and t not in self.failed]
        with self.sweep.tracking.of(going), self.writer:
            for task in range(first, tasks):
                state = self._restore(state, settings, task)
                with _profiled(self.sweep.config.run.profile if task == first else ""):
                    # The rule `random` draws anew for each task, a resumed task the same.
                    of_task = settings._replace(seed=settings.seed + np.uint32(task * 1_000_003))
                    state, metrics, seconds = self._train(state, task, of_task)
                self._evaluate_and_save(state, task, metrics, seconds)
                advance(len(self.trains))
                if self.failed.issuperset(self.trains):
                    advance((tasks - task - 1) * len(self.trains))
                    return

    def _train(
        self, state: Any, task: int, settings: Any
    ) -> tuple[Any, TaskMetrics, dict[Trial, float]]:
        """Teaches one task, or what is left of it; the last are each trial's seconds."""
        started = time.monotonic()
        told = task_input(self.method, self.setup, self.sweep.stream_data, self.filled, task)
        places = {t: place for place, t in enumerate(self.trials) if self._is_due(t, task)}
        left = {t: self.steps.load(self.begun.pop(t)) for t in places if t in self.begun}
        starts = {t: left[t][0].step if t in left else 0 for t in places}
        spent = {t: seconds for t, (_, seconds) in left.items()}

        def see(step: int, begun: Callable[[int], Begun]) -> None:
            self.writer.wait()  # or the host would hold both
            now = {t: begun(place) for t, place in places.items() if starts[t] < step}
            seconds = time.monotonic() - started
            self.steps.write(task, now, {t: seconds + spent.get(t, 0.0) for t in now})

        every = self.sweep.config.run.save_every
        state, metrics = self.group.train(
            state,
            told.batches,
            told.examples,
            settings,
            told.rows,
            names=[t.id for t in self.trials],
            begun={places[t]: begun for t, (begun, _) in left.items()},
            first=min(starts.values(), default=0),
            pauses=Pauses(every, see) if every else None,
        )
        seconds = time.monotonic() - started
        return state, metrics, {t: seconds + spent.get(t, 0.0) for t in self.trials}

    def _is_due(self, trial: Trial, task: int) -> bool:
        """Whether a task of a trial is yet to be done; else it runs idle beside others."""
        return self.done[trial] <= task and trial not in self.failed

    def _restore(self, state: Any, settings: Any, task: int) -> Any:
        """The state with the parameters, from their checkpoints, of trials that begin here.

        Until its first new task a trial runs idle beside those that are behind it.
        """
        due = {t for t in self.trials if task and self.done[t] == task} - self.failed
        if not due:
            return state
        if self.replays:
            for trial in due:
                self.saves.replay(trial, task)
            return state
        restored = {trial: self.saves.restore(trial, task) for trial in due}
        places = {p: restored[t] for p, t in enumerate(self.filled) if t in restored}
        return self.group.resume(state, settings, places)

    def _evaluate_and_save(
        self, state: Any, task: int, metrics: TaskMetrics, seconds: Mapping[Trial, float]
    ) -> None:
        """Evaluates every trial after a task, and has its checkpoint and result row written.

        That is done while the next task trains, but where several processes run as one, which save
        together.
        """
        scores = self._measure(state, task)
        ended: list[Ended] = []
        for place, trial in enumerate(self.trials):
            if not self._is_due(trial, task):
                continue
            row = task_row(
                trial,
                place,
                task,
                self.sweep.stream_data,
                self.setup.training,
                self.trains[trial],
                metrics=metrics,
                scores=scores[place],
                base_scores=self.sweep.base_scores or {},
                seconds=seconds[trial],
            )
            save = None
            if row.failed_step is None:
                name = self.sweep.stream_data.tasks[task].name
                changed, save = self.saves.to_save(state, place, trial, task, name)
                row = replace(row, rows_changed=changed)
            else:
                self._fail(trial, task, row.failed_step)
            ended.append(Ended(row, metrics.losses[place], save))
        write = partial(self._write, ended)
        write() if are_several() else self.writer.do(write)
        if on_task := self.sweep.on_task:
            self.writer.wait()
            for place, trial in enumerate(self.trials):
                if self._is_due(trial, task):
                    on_task(trial, task, self.group.trained(state, place))

    def _write(self, ended: Sequence[Ended]) -> None:
        """Writes what trials have come to after a task: the checkpoint, then the row."""
        run = self.sweep.run
        for row, losses, save in ended:
            if save is not None:
                run.locks.require()  # or it would take the place of another's
                save()
            run.append(row)
            self.sweep.tracking.log_task(row, losses)
            self.steps.drop(row.trial)
            if save is not None and (keep := self.sweep.config.run.checkpoints_kept):
                run.drop_params_before(row.trial, row.task, keep)
            say(result_line(row))

    def _measure(self, state: Any, task: int | None) -> list[Scores]:
        """Every trial's probes after a task, ``None`` for none."""
        own = self.setup.own
        return measure(
            self.group,
            state,
            self.sweep.stream_data,
            task,
            self.sweep.scorer,
            lambda base, trained: self.method.apply(own, base, trained),
        )

    def _fail(self, trial: Trial, task: int, step: int) -> None:
        """Runs a trial no further, and keeps why, for the terminal."""
        self.failed.add(trial)
        cause = "loss, gradient or result is not finite" + self.method.limits(self.setup.own)
        kept = f"that of task {task - 1}" if task else "the base"
        self.sweep.failed.append(
            f"{trial.id}: task {task}, step {step}: {cause}; its last good checkpoint is {kept}"
        )


def run_group(sweep: Sweep, trials: Sequence[Trial], advance: Callable[[int], None]) -> None:
    """Runs trials of one static shape, as many side by side as there are devices."""
    method = METHODS[trials[0].method]
    setup = setup_of(sweep.config, trials[0], sweep.base, sweep.stream_data)
    trainer = method.trainer(setup, trials[0])
    trains = {trial: method.summary(setup, trainer, trial) for trial in trials}
    for summary in dict.fromkeys(trains.values()):
        names = [trial.id for trial in trials if trains[trial] == summary]
        say(f"trains {summary}: {', '.join(names)}")
    mesh = mesh_for(sweep.config.devices, len(trials))
    usage = sweep.usage if method.is_sparse else None
    rows = sweep.config.probes.eval_batch_size
    group = sweep.make_group(setup, trials[0], trainer, usage, mesh, rows)
    for start in range(0, len(trials), group.size):
        chunk = trials[start : start + group.size]
        TrialBatch(sweep, method, setup, group, {t: trains[t] for t in chunk}).run(advance)


@contextlib.contextmanager
def _profiled(directory: str) -> Iterator[None]:
    """Traces what runs inside into a directory, if one is named."""
    if not directory:
        yield
        return
    with tempfile.TemporaryDirectory() as scratch:  # it writes to disks only
        with jax.profiler.trace(scratch):
            yield
        copy(Path(scratch), as_path(directory))
