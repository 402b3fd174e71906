"""What the retrofits of Qwen2.5-0.5B share: 2604.05248 and 2605.03229, 17,337,088 a layer."""

from __future__ import annotations

from smf_jax.memory.config import MemoryConfig

LAYERS = "6,12,18"
MEMORY = MemoryConfig(
    keys_per_half=128,
    heads=4,
    reads=16,
    key_width=256,
    value_width=896,
    gate="silu",
    query_norm="none",
    qk_norm=False,
    key_scale="memory+",
)
