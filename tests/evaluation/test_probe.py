"""What a metric says of its values, and how probes are run one after another."""

from __future__ import annotations

import math
import types
from typing import Any, ClassVar, cast

import pytest

from smf_jax.evaluation.probe import Metric, ProbeOptions, run_probes

SHARE, LOSS = Metric("f1"), Metric("loss", higher_is_better=False)


def test_a_metric_knows_which_way_is_worse():
    assert SHARE.worsened(0.4, 0.3) == pytest.approx(0.25)  # of what it was
    assert LOSS.worsened(2.0, 2.5) == pytest.approx(0.25)
    assert SHARE.worsened(0.4, 0.5) < 0
    assert math.isnan(SHARE.worsened(0.0, 0.5))  # nothing to lose


def test_the_options_are_those_of_the_flags():
    flags = types.SimpleNamespace(
        probe_limit=0,
        split="dev",
        eval_batch_size=8,
        probe_shots=2,
        probe_answer_tokens=9,
        probe_chat=True,
        ppl_window=64,
        ppl_stride=16,
    )
    assert ProbeOptions.of(flags) == ProbeOptions(None, 2, 9, True, 64, 16, "dev", 8)


class Counts:
    """A probe that measures how many params there are."""

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("count", headline=True),)
    about = {"items": 1}  # noqa: RUF012

    def measure(self, scorer, params):
        return {"count": float(len(params))}


def test_probes_are_run_in_their_order_and_told(capsys):
    scorer, params = cast(Any, (None, {"a": 0, "b": 1}))
    found = run_probes(scorer, params, {"one": Counts(), "two": Counts()})
    assert list(found) == ["one", "two"]
    assert found["one"].pop("seconds") >= 0
    assert found["one"] == {"items": 1, "scores": {"count": 2.0}}
    assert "two: count 2.0000 (" in capsys.readouterr().out
