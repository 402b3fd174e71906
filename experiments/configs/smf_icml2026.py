"""Additive sparse memory against LoRA and full finetuning, on Qwen2.5-0.5B (2605.03229)."""

from __future__ import annotations

from typing import Any

from experiments.configs import qwen
from experiments.configs.preset import Preset
from experiments.configs.tiny import NO_MEMORY, TINY_RETROFIT
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.bases.retrofit_config import RetrofitConfig
from smf_jax.continual.config import MethodsConfig, SweepConfig
from smf_jax.continual.methods.lora import LoraConfig
from smf_jax.continual.methods.smf import SmfConfig
from smf_jax.continual.sections import BackgroundConfig, GridConfig, StreamConfig, TrainingConfig

SWEEP = SweepConfig(
    grid=GridConfig(
        methods="smf,lora,full",
        slots="512",
        lr="smf:5e-4/lora:2e-4/full:5e-5",
        rule="smf:kl_acc",
        granularity="per_micro_batch",
        optimizer="adamw",
        seeds="0,1,2",
    ),
    stream=StreamConfig(tasks=1, facts_per_task=60_000),
    background=BackgroundConfig(background_formats="none"),
    retrofit=RetrofitConfig(
        retrofit="add",
        memory_init="normal",
        layers=qwen.LAYERS,
        alpha=0.01,
        memory=qwen.MEMORY,
        heal_routing=True,
        whiten_queries=False,
    ),
    training=TrainingConfig(
        steps_per_task=11_250, batch_size=16, clip=1.0, schedule="cosine", warmup_steps=100
    ),
    methods=MethodsConfig(smf=SmfConfig(micro_batches=4), lora=LoraConfig(rank=16, alpha=32.0)),
)


def _preset(about: str, **changes: Any) -> Preset:
    sweep = SWEEP.with_values(**changes)
    return Preset(
        source="2605.03229",
        about=about,
        sweep=sweep,
        tiny_sweep=sweep.with_values(**{**TINY_RETROFIT, "slots": "64", "seeds": "0"}),
        tiny_pretrain=PretrainConfig.of(**NO_MEMORY),
        open_choices=("micro_batches", "heal_steps", "heal_batch_size", "lora_targets"),
    )


ADD = _preset("a memory beside the feed-forwards of Qwen2.5-0.5B-Instruct")
SCALE = _preset("the same with the scale α trained too (+S)", train_alpha=True)
REPLACE = _preset("the same in place of the feed-forwards", retrofit="replace")
