"""Large Memory Layers with Product Keys (1907.05242): a plain memory with query BatchNorm."""

from __future__ import annotations

from experiments.configs import memory_plus

BASE = memory_plus.BASE.with_values(
    layers=16,
    memory_layers="10",
    shared_pool=False,
    keys_per_half=512,
    gate="none",
    query_norm="batch",
    qk_norm=False,
    key_scale="pkm",
)
ABOUT = "a plain product-key memory with query BatchNorm, there from the start"
PLAIN = memory_plus.pretrained("1907.05242", ABOUT, BASE, "2", "memory_layers")
