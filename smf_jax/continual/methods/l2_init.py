"""L2 to init (1802.01483): full finetuning that pays for every move away from the base."""

from __future__ import annotations

from dataclasses import dataclass

from smf_jax.configuration import Configuration, setting
from smf_jax.continual.methods.method import Method, Setup, optimizer_of
from smf_jax.continual.trial import Trial
from smf_jax.training.penalised import PenalisedState, penalised_trainer
from smf_jax.training.trainers import Trainer


@dataclass(frozen=True)
class L2InitConfig(Configuration):
    """Settings of L2 to init."""

    strength: float = setting(
        1.0, "price of the squared distance from the base, halved", name="l2_init_strength", least=0
    )


class L2Init(Method[L2InitConfig]):
    """Full finetuning with a quadratic price on moving away from the base."""

    name = "l2_init"
    about = "full finetuning held near the base"
    colour = "#56B4E9"
    config = L2InitConfig

    def trainer(self, setup: Setup, trial: Trial) -> Trainer[PenalisedState]:
        """Trains all parameters, held near the base's."""
        own: L2InitConfig = setup.own
        keep = setup.training.keep_optimizer_state
        optimizer = optimizer_of(setup.training, trial)
        return penalised_trainer(
            setup.base.model, optimizer, own.strength, keep, scored=setup.scored
        )
