"""What a preset is: every choice of a paper or a protocol, as configurations of the commands."""

from __future__ import annotations

from dataclasses import dataclass

from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.continual.config import SweepConfig


@dataclass(frozen=True)
class Preset:
    """The settings of one paper or protocol.

    ``--scale=tiny`` shrinks sizes and lengths, not choices; a tiny base replaces a checkpoint.
    """

    source: str  # the paper, by its number, or the page that measures it
    about: str
    sweep: SweepConfig
    tiny_sweep: SweepConfig
    tiny_pretrain: PretrainConfig
    pretrain: PretrainConfig = PretrainConfig()
    open_choices: tuple[str, ...] = ()  # flags on which the source is silent: our choice
