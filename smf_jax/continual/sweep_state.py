"""What all groups of trials of a sweep share, and how each is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax

from smf_jax.bases.base import Base
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.methods.method import Setup
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.scores import Scores
from smf_jax.continual.stream_data import StreamData
from smf_jax.continual.tracking import Tracking
from smf_jax.continual.trial import Trial
from smf_jax.continual.trial_group import TrialGroup
from smf_jax.evaluation.scorer import Scorer
from smf_jax.sparse.usage import PoolUsage
from smf_jax.training.trainers import Trainer

# A trial group of a trainer, on a mesh; tests keep those that they have compiled.
MakeGroup = Callable[[Setup, Trial, Trainer, Any, jax.sharding.Mesh, int], TrialGroup]


def new_group(
    setup: Setup, trial: Trial, trainer: Trainer, usage: Any, mesh: jax.sharding.Mesh, rows: int
) -> TrialGroup:
    """A trial group that is yet to be compiled."""
    del trial
    return TrialGroup(trainer, setup.base.params, usage, mesh, rows, setup.table_layout)


@dataclass
class Sweep:
    """What all groups of a sweep share."""

    config: SweepConfig
    base: Base  # with its memory
    base_fingerprint: str  # of all of its parameters
    stream_data: StreamData  # tasks and probes
    usage: Mapping[str, PoolUsage] | None  # background by pool path
    run: RunDirectory
    make_group: MakeGroup = new_group
    on_task: Callable[[Trial, int, Any], None] | None = None  # told what a kept task trained
    # Of the untouched base; measured with the first group where the trials start from that.
    base_scores: Scores | None = None
    tracking: Tracking = field(default_factory=Tracking)  # who follows the trials
    is_referred: bool = False  # whether the base was shown to the probes that compare with it
    failed: list[str] = field(default_factory=list)  # a line for each trial
    scorer: Scorer = field(init=False)  # for the probes that are named by their kind

    def __post_init__(self) -> None:
        self.scorer = Scorer(self.base.model, self.config.probes.eval_batch_size)
