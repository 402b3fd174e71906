"""Memory Layers at Scale (2412.09764): one pool read by three blocks, there from the start."""

from __future__ import annotations

from experiments.configs.preset import Preset
from experiments.configs.tiny import TINY_BASE, TINY_MEMORY, TINY_STREAM
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.sections import GridConfig

SWEEP = SweepConfig(grid=GridConfig(rule="tfidf"))
BASE = PretrainConfig.of(
    width=1024,
    layers=24,
    heads=16,
    hidden_width=4096,
    memory_layers="4,12,20",
    shared_pool=True,
    keys_per_half=1024,
    memory_heads=4,
    reads=32,
    key_width=512,
    value_width=1024,
    gate="silu",
    query_norm="none",
    qk_norm=True,
    whiten_queries=False,
)


def pretrained(source: str, about: str, base: PretrainConfig, tiny: str, silent: str) -> Preset:
    """A preset whose memory is there from the start: in the layers `tiny` of a tiny base."""
    return Preset(
        source=source,
        about=about,
        sweep=SWEEP,
        tiny_sweep=SWEEP.with_values(**TINY_STREAM, methods="smf", slots="64"),
        pretrain=base,
        tiny_pretrain=base.with_values(**TINY_BASE, **TINY_MEMORY, memory_layers=tiny),
        open_choices=tuple(silent.split(",")),
    )


ABOUT = "one pool read by three blocks, there from the start"
M373 = pretrained("2412.09764", ABOUT, BASE, "1,2,3", "hidden_width,key_width")
