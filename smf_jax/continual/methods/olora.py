"""O-LoRA (2310.14152): new adapters for every task, orthogonal to those of earlier tasks."""

from __future__ import annotations

from dataclasses import dataclass

from smf_jax.configuration import setting
from smf_jax.continual.methods.lora import Lora, LoraConfig
from smf_jax.continual.methods.method import Setup, optimizer_of
from smf_jax.continual.trial import Trial
from smf_jax.models.lora import merge_lora
from smf_jax.params import Params, flatten, unflatten
from smf_jax.training.olora import OLoraState, olora_trainer
from smf_jax.training.trainers import Trainer


@dataclass(frozen=True)
class OLoraConfig(LoraConfig):
    """Settings of O-LoRA."""

    rank: int = setting(8, "rank of the adapters of a task", name="olora_rank", least=1)
    alpha: float = setting(16.0, "adapters act with olora_alpha / olora_rank", name="olora_alpha")
    targets: str = setting("all", "as --lora_targets", name="olora_targets")
    strength: float = setting(
        0.5, "price of the overlap with earlier adapters", name="olora_strength", least=0
    )


class OLora(Lora):
    """Low-rank adapters of every task, orthogonal to those before."""

    name = "olora"
    about = "new low-rank adapters for every task, orthogonal to earlier ones"
    colour = "#117733"
    config = OLoraConfig

    def check(self, setup: Setup, has_text: bool) -> None:
        """Moments of adapters that are new in each task cannot outlive one."""
        if setup.training.keep_optimizer_state:
            raise ValueError(
                "--keep_optimizer_state: the adapters of method olora are new in each task, and so "
                "are their moments; leave out one of the two"
            )

    def trainer(self, setup: Setup, trial: Trial) -> Trainer[OLoraState]:
        """Trains the adapters of the task alone."""
        own: OLoraConfig = setup.own
        adapters = (own.rank, own.alpha, own.modules, own.strength, setup.tasks)
        optimizer = optimizer_of(setup.training, trial)
        return olora_trainer(setup.base.model, optimizer, *adapters, scored=setup.scored)

    def apply(self, own: LoraConfig, base: Params, saved: Params) -> Params:
        """The base with the adapters of all tasks merged into it."""
        ranks = next(leaf.shape[1] for path, leaf in saved.items() if path.endswith("/a"))
        alpha = own.alpha * ranks / own.rank  # as they act with it over all ranks
        return flatten(merge_lora(unflatten(base), saved, alpha))
