"""KL: full finetuning that pays for predicting otherwise than the base (as in 2411.07175)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from smf_jax.configuration import Configuration, setting
from smf_jax.continual.methods.full import Full
from smf_jax.continual.methods.method import Method, Setup, optimizer_of, share_of_rows
from smf_jax.continual.trial import Trial
from smf_jax.training.dense_step import DenseState
from smf_jax.training.kl import KlTokens, kl_trainer
from smf_jax.training.trainers import Trainer

ON = "tokens whose predictions are held: those of the facts (batch), of general text, or both"


@dataclass(frozen=True)
class KlConfig(Configuration):
    """Settings of KL."""

    weight: float = setting(
        1.0, "price of a nat of KL(base ‖ model) a token", name="kl_weight", least=0
    )
    on: KlTokens = setting("both", ON, name="kl_on")
    text_share: float = setting(
        0.5,
        "share of general text in a batch, where --kl_on asks for it",
        name="kl_text_share",
        above=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text_share("kl", self.text_share)


class Kl(Method[KlConfig]):
    """Full finetuning held to the base's predictions."""

    name = "kl"
    about = "full finetuning held to what the base predicts"
    colour = "#E69F00"
    config = KlConfig

    def check(self, setup: Setup, has_text: bool) -> None:
        """It needs general text where it is held on that."""
        check_text(self.name, setup, has_text)

    def trainer(self, setup: Setup, trial: Trial) -> Trainer[DenseState]:
        """That of full finetuning, with the price."""
        return held_to_base(Full().trainer(setup, trial), setup, trial)

    def base_rows(self, own: KlConfig, batch_size: int) -> int:
        """Those whose predictions are held and that are not learned."""
        return text_rows(own, batch_size)


def check_text_share(name: str, share: float) -> None:
    """Raises ValueError unless a share of text leaves room for facts."""
    if share >= 1:
        raise ValueError(f"--{name}_text_share={share}: expected a share between 0 and 1")


def check_text(name: str, setup: Setup, has_text: bool) -> None:
    """Raises ValueError if predictions are to be held on text and there is none, or no room."""
    if setup.own.on == "batch":
        return
    with_batch = f"give --{name}_on=batch"
    if setup.training.batch_size < 2:
        raise ValueError(
            f"--batch_size=1 leaves {name} no room for general text; give at least 2, or "
            f"{with_batch}"
        )
    if not has_text:
        raise ValueError(
            f"--methods: {name} holds predictions on general text, and --base "
            f"({setup.base.origin}) brings none; give --background=FILE, or {with_batch}"
        )


def text_rows(own: Any, batch_size: int) -> int:
    """Rows of a batch that hold general text: the share, where it is asked for, never all."""
    return 0 if own.on == "batch" else share_of_rows(own.text_share, batch_size)


def held_to_base(learner: Trainer[DenseState], setup: Setup, trial: Trial) -> Trainer[DenseState]:
    """The trainer of a dense method with the price on top."""
    own, model = setup.own, setup.base.model
    rows = text_rows(own, setup.training.batch_size)
    return kl_trainer(model, optimizer_of(setup.training, trial), learner, own.weight, own.on, rows)
