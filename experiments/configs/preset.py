"""What a preset is: every choice of a published method, as configurations of the commands."""

from __future__ import annotations

from dataclasses import dataclass

from smf_jax.continual.config import PretrainConfig, SweepConfig


@dataclass(frozen=True)
class Preset:
    """The settings of one paper.

    ``--scale=tiny`` shrinks sizes and lengths, not choices: the same code path in a minute or two
    on a processor. What a source leaves open is our choice and stands under `open_choices`.

    Attributes:
      source: the paper, by its number.
      about: what it is, in a line.
      sweep: what ``experiments.sweep`` is told.
      tiny_sweep: the same at ``--scale=tiny``.
      pretrain: what ``experiments.pretrain`` is told, where the memory is there from the start;
        for retrofits, whose base is a checkpoint, the defaults.
      tiny_pretrain: the same at ``--scale=tiny``; what a retrofit's checkpoint is replaced by.
      open_choices: flags on which the source is silent.
    """

    source: str
    about: str
    sweep: SweepConfig
    tiny_sweep: SweepConfig
    tiny_pretrain: PretrainConfig
    pretrain: PretrainConfig = PretrainConfig()
    open_choices: tuple[str, ...] = ()
