"""Memory Layers at Scale (2412.09764): one pool read by three blocks, there from the start."""

from __future__ import annotations

from experiments.configs.preset import Preset
from experiments.configs.tiny import TINY_BASE, TINY_MEMORY, TINY_STREAM
from smf_jax.continual.config import PretrainConfig, SweepConfig
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
M373 = Preset(
    source="2412.09764",
    about="one pool read by three blocks, there from the start",
    sweep=SWEEP,
    tiny_sweep=SWEEP.with_values(**TINY_STREAM, methods="smf", slots="64"),
    pretrain=BASE,
    tiny_pretrain=BASE.with_values(**TINY_BASE, **TINY_MEMORY, memory_layers="1,2,3"),
    open_choices=("hidden_width", "key_width"),
)
