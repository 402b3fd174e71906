"""Replay of the stream: full finetuning on batches into which earlier tasks' facts are mixed."""

from __future__ import annotations

from dataclasses import dataclass

from smf_jax.configuration import Configuration, setting
from smf_jax.continual.methods.full import Full
from smf_jax.continual.methods.method import Method, Setup
from smf_jax.continual.trial import Trial
from smf_jax.training.trainers import Trainer


@dataclass(frozen=True)
class ReplayStreamConfig(Configuration):
    """Settings of replay of the stream."""

    share: float = setting(
        0.05,
        "share of earlier tasks' facts in the batches of a task, over all of its steps",
        name="replay_stream_share",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share < 1:
            raise ValueError(
                f"--replay_stream_share={self.share}: expected a share between 0 and 1"
            )


class ReplayStream(Method[ReplayStreamConfig]):
    """Full finetuning with earlier tasks' facts mixed in.

    It keeps what it was taught, which methods without stored data do not: a ceiling more than a
    rival.
    """

    name = "replay_stream"
    about = "full finetuning with facts of earlier tasks mixed in"
    colour = "#882255"
    config = ReplayStreamConfig

    def check(self, setup: Setup, has_text: bool) -> None:
        """Replay needs room in a batch for earlier facts beside new ones."""
        if setup.training.batch_size < 2:
            raise ValueError(
                "--batch_size=1 leaves replay_stream no room for earlier facts; give at least 2"
            )

    def trainer(self, setup: Setup, trial: Trial) -> Trainer:
        """That of full finetuning."""
        return Full().trainer(setup, trial)

    def earlier_share(self, own: ReplayStreamConfig) -> float:
        """As told."""
        return own.share
