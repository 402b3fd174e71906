"""Large Memory Layers with Product Keys (1907.05242): a plain memory with query BatchNorm."""

from __future__ import annotations

from experiments.configs.preset import Preset
from experiments.configs.tiny import TINY_BASE, TINY_MEMORY, TINY_STREAM
from smf_jax.continual.config import PretrainConfig, SweepConfig
from smf_jax.continual.sections import GridConfig

SWEEP = SweepConfig(grid=GridConfig(rule="tfidf"))
BASE = PretrainConfig.of(
    width=1024,
    layers=16,
    heads=16,
    hidden_width=4096,
    memory_layers="10",
    keys_per_half=512,
    memory_heads=4,
    reads=32,
    key_width=512,
    value_width=1024,
    gate="none",
    query_norm="batch",
    qk_norm=False,
    key_scale="pkm",
    whiten_queries=False,
)
PLAIN = Preset(
    source="1907.05242",
    about="a plain product-key memory with query BatchNorm, there from the start",
    sweep=SWEEP,
    tiny_sweep=SWEEP.with_values(**TINY_STREAM, methods="smf", slots="64"),
    pretrain=BASE,
    tiny_pretrain=BASE.with_values(**TINY_BASE, **TINY_MEMORY, memory_layers="2"),
    open_choices=("memory_layers",),
)
