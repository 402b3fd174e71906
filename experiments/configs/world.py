"""Longer and harder streams of the built-in world."""

from __future__ import annotations

from experiments.configs.preset import Preset
from experiments.configs.tiny import NO_MEMORY, TINY_BASE, TINY_MEMORY, TINY_STREAM
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.continual.config import SweepConfig

SOURCE = "docs/world.md"

# Of a base without a memory, with an empty table added beside one of its feed-forwards: nothing
# that the base knows lies in a row, and a stream of any length has rare slots to write.
_LONG = SweepConfig.of(
    tasks=50,
    slots="512",
    lr="smf:0.5",
    optimizer="smf:adam",
    schedule="cosine",
    keep_checkpoints="last",
    retrofit="add",
    layers="2",
)
LONG = Preset(
    source=SOURCE,
    about="a thousand facts in fifty tasks, into an empty table beside the base",
    sweep=_LONG,
    tiny_sweep=_LONG.with_values(**TINY_MEMORY, **{**TINY_STREAM, "slots": "16"}),
    tiny_pretrain=PretrainConfig.of(**NO_MEMORY),
    pretrain=PretrainConfig.of(memory_layers=""),
)
_UPDATES = SweepConfig.of(changed_share=1.0)
UPDATES = Preset(
    source=SOURCE,
    about="every fact of the stream changes one that the base knows",
    sweep=_UPDATES,
    tiny_sweep=_UPDATES.with_values(**{**TINY_STREAM, "slots": "16"}),
    tiny_pretrain=PretrainConfig.of(**TINY_BASE, **TINY_MEMORY),
)
