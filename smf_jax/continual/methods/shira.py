"""SHiRA (2406.13175): a fixed random choice of weights trains, the others keep their bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from smf_jax.configuration import Configuration, setting
from smf_jax.continual.methods.lora import Lora, modules_of
from smf_jax.continual.methods.method import Method, Setup, TrainableSummary, optimizer_of
from smf_jax.continual.trial import Trial
from smf_jax.errors import blame_flag
from smf_jax.models.shira import ENTRIES, PLACES, apply_entries
from smf_jax.params import Params
from smf_jax.training.shira import ShiraState, shira_trainer
from smf_jax.training.trainers import Trainer


@dataclass(frozen=True)
class ShiraConfig(Configuration):
    """Settings of SHiRA."""

    share: float = setting(
        0.02, "share of the weights that train", name="shira_share", above=0, most=1
    )
    count: int = setting(
        0,
        "how many weights train, in place of --shira_share; 0: by share",
        name="shira_count",
        least=0,
        most=2**31 - 1,
    )
    targets: str = setting(
        "all", "projections with such weights, as --lora_targets", name="shira_targets"
    )

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the projections."""
        return modules_of(self.targets)


class Shira(Method[ShiraConfig]):
    """Sparse high-rank adapters at random places."""

    name = "shira"
    about = "a fixed random choice of weights"
    colour = "#999933"
    config = ShiraConfig
    learning_rates: ClassVar = Lora.learning_rates
    artefact = "adapters"

    def trainer(self, setup: Setup, trial: Trial) -> Trainer[ShiraState]:
        """Trains the entries alone."""
        own: ShiraConfig = setup.own
        keep = setup.training.keep_optimizer_state
        chosen = (own.modules, own.share, own.count)
        optimizer = optimizer_of(setup.training, trial)
        return shira_trainer(setup.base.model, optimizer, *chosen, keep, scored=setup.scored)

    def may_train(self, own: ShiraConfig, path: str) -> bool:
        """Entries of the targets, kept with their places."""
        *_, owner, leaf = ("", *path.split("/"))
        return owner in own.modules and leaf in (ENTRIES, PLACES)

    def apply(self, own: ShiraConfig, base: Params, saved: Params) -> Params:
        """The base with the entries added."""
        return apply_entries(base, saved)

    def summary(self, setup: Setup, trainer: Trainer, trial: Trial) -> TrainableSummary:
        """Counts the entries; a share or target that does not fit is named by its flag."""
        with blame_flag(f"--{self.name}_"):
            return super().summary(setup, trainer, trial)
