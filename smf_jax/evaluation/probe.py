"""What a probe is: how it is read and asked, and what it measures; `probes` holds them by kind."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from smf_jax.data.readers import Reader
from smf_jax.data.shares import Split
from smf_jax.data.tokenizer import Tokenizer
from smf_jax.evaluation.asking import Asking
from smf_jax.evaluation.scorer import Scorer
from smf_jax.params import Params
from smf_jax.progress import say


@dataclass(frozen=True)
class Metric:
    """A number that a probe measures, and how to read it."""

    name: str  # as in ``probe_NAME_METRIC`` of `results.jsonl`
    higher_is_better: bool = True  # whether it rises as a model gets better
    format: str = ".1f"  # how a table writes it
    factor: float = 100.0  # what a table multiplies it by first; 100 writes a share in percent
    headline: bool = False  # whether it is the one of its probe to look at, which tables show

    @property
    def is_share(self) -> bool:
        """Whether it is an accuracy or its like: from 0 to 1, and the higher the better."""
        return self.higher_is_better and self.factor == 100

    def worsened(self, before: float, now: float) -> float:
        """How much worse it got, relative to what it was before; NaN where that is 0."""
        drop = before - now if self.higher_is_better else now - before
        return drop / before if before else float("nan")


class Probe(Protocol):
    """A held-out measurement that is taken of the params of a whole model."""

    metrics: ClassVar[tuple[Metric, ...]]

    def measure(self, scorer: Scorer, params: Params) -> dict[str, float]:
        """Values of all `metrics` by name, in their order."""
        ...

    @property
    def about(self) -> dict[str, int]:
        """What to tell beside the values, such as how many items there are."""
        ...


@runtime_checkable
class Comparing(Protocol):
    """A probe that measures how a model differs from its base."""

    def refer_to(self, scorer: Scorer, base: Params) -> None:
        """Takes what it compares with from the params of the base."""
        ...


def refer_to_base(probes: Mapping[str, Probe], scorer: Scorer, base: Params) -> None:
    """Shows the base to the probes that compare with it; before any of them measures."""
    for probe in probes.values():
        if isinstance(probe, Comparing):
            probe.refer_to(scorer, base)


@dataclass(frozen=True)
class ProbeOptions:
    """What the probes of a command share."""

    limit: int | None = 500  # questions, items or windows of a probe; ``None`` for all
    shots: int = 0  # examples shown before each question of kinds ``f1`` and ``known``
    answer_tokens: int = 32  # tokens of an answer of these kinds at most
    chat: bool = False  # whether they are asked by the tokenizer's chat template
    window: int = 0  # tokens of a window of kind ``ppl``; 0 for 1,024, or all positions if fewer
    stride: int = 0  # tokens from one window to the next; 0 for half a window
    split: Split = "all"  # questions that kind ``known`` takes, by a hash of theirs
    rows: int = 128  # questions that are asked at once

    @classmethod
    def of(cls, flags: Any) -> ProbeOptions:
        """The options that the flags of a command give."""
        return cls(
            limit=flags.probe_limit or None,
            shots=flags.probe_shots,
            answer_tokens=flags.probe_answer_tokens,
            chat=flags.probe_chat,
            window=flags.ppl_window,
            stride=flags.ppl_stride,
            split=flags.split,
            rows=flags.eval_batch_size,
        )


class ProbeContext(NamedTuple):
    """What reading and encoding a probe needs."""

    reader: Reader
    tokenizer: Tokenizer
    positions: int  # the longest sequence that the model takes
    options: ProbeOptions
    asking: Asking | None = None  # of the untouched model; ``None`` while nothing may be computed
    taught: frozenset[str] = frozenset()  # keys of the stream's questions, which are not known ones


class ProbeKind(NamedTuple):
    """A kind of probe that ``--probes=NAME=KIND:SOURCE`` names."""

    name: str
    measured: type[Probe]  # the class of its probes, which says what they measure
    read: Callable[[str, ProbeContext], Probe]  # reads and encodes a source

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What a probe of this kind measures."""
        return self.measured.metrics


def run_probes(
    scorer: Scorer, params: Params, probes: Mapping[str, Probe]
) -> dict[str, dict[str, Any]]:
    """Measures and prints each probe; returns what it tells, its ``scores`` and ``seconds``."""
    found = {}
    for name, probe in probes.items():
        began = time.monotonic()
        scores = probe.measure(scorer, params)
        seconds = time.monotonic() - began
        found[name] = {**probe.about, "scores": scores, "seconds": seconds}
        told = ", ".join(f"{metric} {value:.4f}" for metric, value in scores.items())
        say(f"{name}: {told} ({seconds:.1f} s)")
    return found
