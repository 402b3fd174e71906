"""What is told of steps that may not be computed yet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from smf_jax.continual import trial_group
from smf_jax.continual.step_log import Begun, StepLog
from smf_jax.training.step import StepMetrics
from tests.continual.test_trial_group import STEPS, batches_of, sparse_group, taught
from tests.training import tiny


class Pending(np.ndarray):
    """Numbers of two trials that are there or not yet."""

    ready: bool

    def is_ready(self) -> bool:
        return self.ready

    def __array__(self, *told: Any, **more: Any) -> np.ndarray:
        assert self.ready, "waited for"
        return super().__array__(*told, **more)


def measured(ready: bool, *losses: float, rows: int = 7) -> StepMetrics:
    made = [np.asarray(losses, np.float32), np.full(2, rows, np.int32)]
    pending: Any = [each.view(Pending) for each in made]
    for each in pending:
        each.ready = ready
    return StepMetrics(*pending)


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("smf_jax.continual.step_log.time.monotonic", lambda: now[0])
    return now


def test_the_last_step_that_is_there_is_told_and_no_other_waited_for(clock):
    batches = [tiny.batches(4), tiny.batches(4, start=9)]
    log = StepLog(batches)
    assert log.lines() == []
    log.add(0, measured(False, 9.0, 8.0))
    assert log.lines() == []
    log.add(0, measured(True, 1.5, 2.5))
    log.add(1, measured(False, 5.0, 6.0))
    assert log.lines() == [
        "step 1 of 4, loss 1.5000, 7 rows written",
        "step 1 of 4, loss 2.5000, 7 rows written",
    ]
    clock[0] += 2
    log.add(2, measured(True, 0.25, 0.5, rows=0))
    tokens = [int(batch.valid[1:3].sum()) for batch in batches]
    assert log.lines() == [
        f"step 3 of 4, loss 0.2500, {tokens[0] / 2:,.0f} tokens a second",
        f"step 3 of 4, loss 0.5000, {tokens[1] / 2:,.0f} tokens a second",
    ]


def test_what_was_fetched_is_told_too(clock):
    log = StepLog([tiny.batches(4), tiny.batches(4)])
    log.add(0, measured(True, 1.5, 2.5))
    log.add(1, measured(True, 1.25, 2.25, rows=3))
    log.fetch()
    assert log.losses[:, :2].tolist() == [[1.5, 1.25], [2.5, 2.25]]
    assert log.selected[:, :3].tolist() == [[7, 3, 0], [7, 3, 0]]
    assert [line.split(", ")[1] for line in log.lines()] == ["loss 1.2500", "loss 2.2500"]
    begun = Begun(1, {}, np.asarray([4.0], np.float32), np.asarray([5], np.int32))
    log.put(1, begun)
    assert log.losses[:, 0].tolist() == [1.5, 4.0] and log.selected[1, 0] == 5


def test_a_group_shows_its_named_trials_while_it_trains(monkeypatch):
    shown = []

    class Lines:
        def __init__(self, names, look):
            self.names, self.look = names, look

        def __enter__(self):
            assert self.look() == []

        def __exit__(self, *_):
            shown.append((self.names, self.look()))

    monkeypatch.setattr(trial_group, "live_lines", Lines)
    group = sparse_group(1)
    state, settings, _ = taught(group, [0], tasks=0)
    batches = [batches_of(0, 0)]
    group.train(state, batches, tiny.batches(2), settings, names=["a trial"])
    ((names, (line,)),) = shown
    assert names == ["a trial"]
    assert line.startswith(f"step {STEPS} of {STEPS}, loss ") and "1 rows written" in line
