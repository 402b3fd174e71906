"""Full finetuning: every parameter of the model trains."""

from __future__ import annotations

from smf_jax.continual.methods.method import Method, NoConfig, Setup, update_rule
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
        update = update_rule(setup, trial)
        keep = setup.training.keep_optimizer_state
        return dense_trainer(setup.base.model, update, keep_optimizer_state=keep)
