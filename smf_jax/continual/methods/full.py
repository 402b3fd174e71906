"""Full finetuning: every parameter of the model trains."""

from __future__ import annotations

from smf_jax.continual.methods.method import Method, NoConfig, Setup, optimizer_of
from smf_jax.continual.trial import Trial
from smf_jax.training.trainers import Trainer, dense_trainer


class Full(Method[NoConfig]):
    """Full finetuning."""

    name = "full"
    about = "full finetuning"
    colour = "#D55E00"
    config = NoConfig

    def trainer(self, setup: Setup, trial: Trial) -> Trainer:
        """Trains all parameters but running statistics."""
        optimizer = optimizer_of(setup.training, trial)
        keep = setup.training.keep_optimizer_state
        return dense_trainer(
            setup.base.model, optimizer, keep_optimizer_state=keep, scored=setup.scored
        )
