"""Training the tasks of a lesson, one after the other: what comes out of each is a patch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from smf_jax.bases.base import Base
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.grid import grid
from smf_jax.continual.methods import METHODS
from smf_jax.continual.methods.method import settings_of
from smf_jax.continual.patch_history import PatchHistory, written_rows, written_slots
from smf_jax.continual.plan import setup_of
from smf_jax.continual.stream_data import StreamData, chunked
from smf_jax.continual.trial_group import TrialGroup
from smf_jax.data.batching import encode_paraphrases, sample_batches
from smf_jax.data.facts import Fact, train_paraphrases
from smf_jax.data.packing import pack_rows
from smf_jax.mesh import TRIAL, device_mesh
from smf_jax.params import Params
from smf_jax.sparse.patch import Patch
from smf_jax.sparse.usage import Background
from smf_jax.tables import on_host


class TaughtTask(NamedTuple):
    """What a task has come to."""

    patch: Patch
    steps: int


class TaskTrainer:
    """Teaches tasks to one model; compiled once, whatever the facts of a task."""

    def __init__(
        self,
        config: SweepConfig,
        base: Base,
        data: StreamData,
        background: Background,
        patches: Sequence[Patch],
    ) -> None:
        """Starts at the base with these patches. ``data`` are those of all tasks, one or more."""
        (trial,) = grid(config.grid, config.own)
        method, self._config, self._base = METHODS[trial.method], config, base
        setup = setup_of(config, trial, base, data)
        trainer = method.trainer(setup, trial)
        rows = config.probes.eval_batch_size
        mesh = device_mesh(TRIAL, jax.local_devices()[:1])
        self._group = TrialGroup(trainer, base.params, background.pools, mesh, rows)
        self._seed, self._length = trial.seed, data.examples[0].tokens.shape[-1]
        self._rows = _rows_of_batch(data, config.training.batch_size)
        self._state, self._settings = self._group.begin(
            [settings_of(trial, method.size(setup, trial))]
        )
        trained = self._group.trained(self._state, 0)
        started = {path: on_host(base.params[path]) for path in trained}
        self._history = PatchHistory(started, base.fingerprint())
        if patches:
            taken_up = {0: self._history.take_up(patches)}
            self._state = self._group.resume(self._state, self._settings, taken_up)
        # With room for a task from the start: probes are compiled for a table of that size.
        self._state = trainer.grow(self._state, config.training.steps_per_task)

    @property
    def params(self) -> Params:
        """The parameters of the model as it is now."""
        return {**self._base.params, **self._group.trained(self._state, 0)}

    def teach(
        self,
        name: str,
        number: int,
        missing: Sequence[Fact],
        others: Sequence[Fact],
        rounds: int,
        unanswered: Callable[[], Sequence[Fact]],
    ) -> TaughtTask:
        """Trains facts in rounds until none is ``unanswered``, or all rounds are used up.

        Those that are missing are trained beside others that are not to be undone, and in later
        rounds beside those that are answered by then. ``number`` decides, with the seed, the order
        of batches. Raises FloatingPointError where a step is not finite.
        """
        slots: dict[str, np.ndarray] = {}
        steps, trained = 0, (*missing, *others)
        for each in range(rounds):
            beside = [fact for fact in trained if fact not in missing]
            self._train([self._seed, number, each], mixed(missing, beside))
            steps += self._config.training.steps_per_task
            for pool, written in written_slots(self._state, 0).items():
                slots[pool] = np.union1d(slots.get(pool, written), written)
            missing = unanswered()
            if not missing:
                break
        patch = self._history.patch(name, *written_rows(self._state, 0, slots))
        return TaughtTask(patch, steps)

    def _train(self, seed: Sequence[int], facts: Sequence[Fact]) -> None:
        training = self._config.training
        examples = encode_paraphrases(
            self._base.tokenizer,
            train_paraphrases(facts),
            self._length,
            training.prompt_loss_weight,
        )
        dealt = pack_rows(examples, [len(fact.train) for fact in facts])
        rng = np.random.default_rng(list(seed))
        batches = sample_batches(dealt.rows, training.steps_per_task, self._rows, rng, dealt.groups)
        whole = chunked(examples, training.batch_size)
        rows = chunked(dealt.rows, training.batch_size)
        self._state, metrics = self._group.train(
            self._state, [batches], whole, self._settings, rows
        )
        if int(metrics.failed_step[0]) >= 0:
            raise FloatingPointError(
                f"step {int(metrics.failed_step[0])} of a task: loss or rows are not finite; lower "
                f"--lr={self._config.grid.lr}. The tasks before it are kept"
            )


def mixed(missing: Sequence[Fact], others: Sequence[Fact]) -> list[Fact]:
    """The facts of a round: those that are missing about as often as all others together."""
    return [*list(missing) * max(1, round(len(others) / max(1, len(missing)))), *others]


def _rows_of_batch(data: StreamData, batch_size: int) -> int:
    """Packed rows that hold so many wordings, on average over all tasks."""
    packed = sum(len(of.rows.tokens) for of in data.dealt(by_fact=True))
    return max(1, round(batch_size * packed / sum(len(each.tokens) for each in data.examples)))
