"""Replay: full finetuning on batches into which general text is mixed."""

from __future__ import annotations

from dataclasses import dataclass

from smf_jax.configuration import Configuration, setting
from smf_jax.continual.methods.full import Full
from smf_jax.continual.methods.method import Method, Setup, share_of_rows
from smf_jax.continual.trial import Trial
from smf_jax.training.trainers import Trainer


@dataclass(frozen=True)
class ReplayConfig(Configuration):
    """Settings of replay."""

    share: float = setting(0.5, "share of base data in a batch of replay", name="replay_share")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share < 1:
            raise ValueError(f"--replay_share={self.share}: expected a share between 0 and 1")


class Replay(Method[ReplayConfig]):
    """Full finetuning with base data mixed in."""

    name = "replay"
    about = "full finetuning with base data mixed in"
    colour = "#CC79A7"
    config = ReplayConfig

    def check(self, setup: Setup, has_text: bool) -> None:
        """Replay needs text to mix in, and room for it."""
        if setup.training.batch_size < 2:
            raise ValueError("--batch_size=1 leaves replay no room for base data; give at least 2")
        if not has_text:
            raise ValueError(
                f"--methods: replay mixes base data in, and --base ({setup.base.origin}) brings "
                "none; give --background=FILE, or leave replay out"
            )

    def trainer(self, setup: Setup, trial: Trial) -> Trainer:
        """That of full finetuning; general text has weight at every place."""
        return Full().trainer(setup._replace(examples=()), trial)

    def base_rows(self, own: ReplayConfig, batch_size: int) -> int:
        """The share of a batch, at least a row and never all of them."""
        return share_of_rows(own.share, batch_size)
