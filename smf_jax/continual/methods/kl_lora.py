"""KL with LoRA: low-rank adapters that pay for predicting otherwise than the base."""

from __future__ import annotations

from dataclasses import dataclass

from smf_jax.configuration import setting
from smf_jax.continual.methods.kl import ON, check_text, check_text_share, held_to_base, text_rows
from smf_jax.continual.methods.lora import Lora, LoraConfig
from smf_jax.continual.methods.method import Setup
from smf_jax.continual.trial import Trial
from smf_jax.training.dense_step import DenseState
from smf_jax.training.kl import KlTokens
from smf_jax.training.trainers import Trainer


@dataclass(frozen=True)
class KlLoraConfig(LoraConfig):
    """Settings of KL with LoRA."""

    rank: int = setting(8, "rank of the adapters", name="kl_lora_rank", least=1)
    alpha: float = setting(
        16.0, "adapters act with kl_lora_alpha / kl_lora_rank", name="kl_lora_alpha"
    )
    targets: str = setting("all", "as --lora_targets", name="kl_lora_targets")
    weight: float = setting(
        1.0, "price of a nat of KL(base ‖ model) a token", name="kl_lora_weight", least=0
    )
    on: KlTokens = setting("both", ON, name="kl_lora_on")
    text_share: float = setting(
        0.5,
        "share of general text in a batch, where --kl_lora_on asks for it",
        name="kl_lora_text_share",
        above=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text_share("kl_lora", self.text_share)


class KlLora(Lora):
    """Low-rank adapters held to the base's predictions."""

    name = "kl_lora"
    about = "low-rank adapters held to what the base predicts"
    colour = "#44AA99"
    config = KlLoraConfig

    def check(self, setup: Setup, has_text: bool) -> None:
        """It needs general text where it is held on that."""
        check_text(self.name, setup, has_text)

    def trainer(self, setup: Setup, trial: Trial) -> Trainer[DenseState]:
        """That of LoRA, with the price."""
        return held_to_base(super().trainer(setup, trial), setup, trial)

    def base_rows(self, own: LoraConfig, batch_size: int) -> int:
        """Those whose predictions are held and that are not learned."""
        return text_rows(own, batch_size)
