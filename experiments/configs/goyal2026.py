"""Sparse memory in place of feed-forwards of Qwen2.5-0.5B-Instruct, ranked by KL (2604.05248)."""

from __future__ import annotations

from experiments.configs import qwen
from experiments.configs.preset import Preset
from experiments.configs.tiny import NO_MEMORY, TINY_RETROFIT
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.bases.retrofit_config import RetrofitConfig
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.sections import BackgroundConfig, GridConfig, StreamConfig, TrainingConfig

SWEEP = SweepConfig(
    grid=GridConfig(
        methods="smf",
        slots="128,256,512",
        lr="5e-4",
        rule="kl_df",
        granularity="per_step",
        optimizer="adamw",
    ),
    stream=StreamConfig(tasks=10, facts_per_task=100),
    background=BackgroundConfig(background_formats="none"),
    retrofit=RetrofitConfig(
        retrofit="replace",
        memory_init="normal",
        layers=qwen.LAYERS,
        memory=qwen.MEMORY,
        heal_steps=1250,
        heal_learning_rate=5e-4,
        heal_batch_size=16,
        heal_routing=True,
        whiten_queries=False,
    ),
    training=TrainingConfig(
        steps_per_task=200, batch_size=16, clip=1.0, schedule="cosine", warmup_steps=100
    ),
)
REPLACE = Preset(
    source="2604.05248",
    about="feed-forwards of Qwen2.5-0.5B-Instruct replaced, healed, slots ranked by KL",
    sweep=SWEEP,
    tiny_sweep=SWEEP.with_values(**TINY_RETROFIT),
    tiny_pretrain=PretrainConfig.of(**NO_MEMORY),
    open_choices=("batch_size", "facts_per_task", "steps_per_task"),
)
