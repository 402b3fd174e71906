"""Longer and harder streams of the built-in world."""

from __future__ import annotations

from typing import Any

from experiments.configs.preset import Preset
from experiments.configs.tiny import TINY_BASE, TINY_MEMORY, TINY_STREAM
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.continual.config import SweepConfig

SOURCE = "docs/world.md"


def _preset(about: str, **changes: Any) -> Preset:
    sweep = SweepConfig.of(**changes)
    return Preset(
        source=SOURCE,
        about=about,
        sweep=sweep,
        tiny_sweep=sweep.with_values(**{**TINY_STREAM, "slots": "16"}),
        tiny_pretrain=PretrainConfig.of(**TINY_BASE, **TINY_MEMORY),
    )


LONG = _preset("a thousand facts in fifty tasks", tasks=50, slots="512", keep_checkpoints="last")
UPDATES = _preset("every fact of the stream changes one that the base knows", changed_share=1.0)
