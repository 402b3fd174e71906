"""LoRA (2106.09685): low-rank adapters beside linear maps, the model itself frozen."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

from smf_jax.configuration import Configuration, setting
from smf_jax.continual.methods.method import Method, Setup, TrainableSummary, optimizer_of
from smf_jax.continual.trial import Trial
from smf_jax.errors import blame_flag
from smf_jax.models.lora import ATTENTION_TARGETS, FEED_FORWARD_TARGETS, merge_lora
from smf_jax.params import Params, flatten, unflatten
from smf_jax.training.trainers import Trainer, lora_trainer

GROUPS = {
    "attention": ATTENTION_TARGETS,
    "mlp": FEED_FORWARD_TARGETS,
    "all": ATTENTION_TARGETS + FEED_FORWARD_TARGETS,
}


@dataclass(frozen=True)
class LoraConfig(Configuration):
    """Settings of LoRA."""

    rank: int = setting(8, "rank of the adapters", name="lora_rank", least=1)
    alpha: float = setting(16.0, "adapters act with lora_alpha / lora_rank", name="lora_alpha")
    targets: str = setting(
        "query,key,value,output,gate,up,down",
        "projections with adapters, by name or as attention, mlp or all",
        name="lora_targets",
    )

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the projections with adapters."""
        return modules_of(self.targets)


def modules_of(targets: str) -> tuple[str, ...]:
    """The projections of a list; joined by a plus where a comma parts the values of --vary."""
    words = targets.replace("+", ",").split(",")
    return tuple(dict.fromkeys(chain.from_iterable(GROUPS.get(word, (word,)) for word in words)))


class Lora(Method[LoraConfig]):
    """Low-rank adapters."""

    name = "lora"
    about = "low-rank adapters"
    colour = "#009E73"
    config = LoraConfig
    learning_rates: ClassVar = {
        "sgd": (1e-1, 3e-1, 1.0),
        "momentum": (1e-2, 3e-2, 1e-1),
        "adam": (1e-4, 3e-4, 1e-3),
        "adamw": (3e-4, 1e-3, 3e-3),
    }
    artefact = "adapters"

    def trainer(self, setup: Setup, trial: Trial) -> Trainer:
        """Trains the adapters alone."""
        own: LoraConfig = setup.own
        optimizer = optimizer_of(setup.training, trial)
        keep = setup.training.keep_optimizer_state
        adapters = (own.rank, own.alpha, own.modules)
        return lora_trainer(setup.base.model, optimizer, *adapters, keep, scored=setup.scored)

    def may_train(self, own: LoraConfig, path: str) -> bool:
        """Adapters of the targets."""
        *_, owner, leaf = ("", *path.split("/"))
        return owner in own.modules and leaf in ("a", "b")

    def apply(self, own: LoraConfig, base: Params, saved: Params) -> Params:
        """The base with the adapters merged into it."""
        return flatten(merge_lora(unflatten(base), saved, own.alpha))

    def summary(self, setup: Setup, trainer: Trainer, trial: Trial) -> TrainableSummary:
        """Counts the adapters; a rank or target that does not fit is named by its flag."""
        with blame_flag(f"--{self.name}_"):
            return super().summary(setup, trainer, trial)
