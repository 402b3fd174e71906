"""Elastic weight consolidation (1612.00796): what earlier tasks need is dear to move."""

from __future__ import annotations

from dataclasses import dataclass

from smf_jax.configuration import Configuration, setting
from smf_jax.continual.methods.method import Method, Setup, optimizer_of
from smf_jax.continual.trial import Trial
from smf_jax.training.penalised import PenalisedState, penalised_trainer
from smf_jax.training.trainers import Trainer


@dataclass(frozen=True)
class EwcConfig(Configuration):
    """Settings of EWC."""

    strength: float = setting(
        1000.0, "price of moving what earlier tasks need", name="ewc_strength", least=0
    )


class Ewc(Method[EwcConfig]):
    """Full finetuning with a price on moving what the Fisher information of earlier tasks holds."""

    name = "ewc"
    about = "full finetuning that protects what earlier tasks need"
    colour = "#F0E442"
    config = EwcConfig

    def trainer(self, setup: Setup, trial: Trial) -> Trainer[PenalisedState]:
        """Trains all parameters; after each task their importance is measured."""
        own: EwcConfig = setup.own
        keep = setup.training.keep_optimizer_state
        optimizer = optimizer_of(setup.training, trial)
        return penalised_trainer(
            setup.base.model, optimizer, own.strength, keep, by_fisher=True, scored=setup.scored
        )
