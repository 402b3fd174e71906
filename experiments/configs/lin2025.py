"""Continual Learning via Sparse Memory Finetuning (2510.15103, section 4), one step a task."""

from __future__ import annotations

from experiments.configs import memory_plus
from experiments.configs.preset import Preset
from experiments.configs.tiny import TINY_BASE, TINY_MEMORY, TINY_STREAM
from smf_jax.continual import sections
from smf_jax.continual.config import MethodsConfig, SweepConfig
from smf_jax.continual.methods.lora import LoraConfig

BASE = memory_plus.BASE.with_values(
    width=2048,
    layers=22,
    hidden_width=5632,
    memory_layers="12",
    shared_pool=False,
    key_width=1024,
)
OPEN_CHOICES = ("width", "heads", "hidden_width", "key_width", "qk_norm")
OPEN_CHOICES += ("background_batch_size", "lora_alpha", "changed_share")


def _sweep(slots: str, tasks: int) -> SweepConfig:
    return SweepConfig(
        grid=sections.GridConfig(
            methods="smf,full,lora",
            slots=slots,
            lr="smf:2/full:5e-6/lora:5e-6,5e-5,2e-4",
            rule="tfidf",
            granularity="per_step",
            optimizer="smf:sgd/full:adamw/lora:adamw",
            batch_order="facts",
        ),
        stream=sections.StreamConfig(tasks=tasks, facts_per_task=1, changed_share=0.0),
        background=sections.BackgroundConfig(
            background_batches=1000, background_batch_size=64, background_formats="none"
        ),
        training=sections.TrainingConfig(steps_per_task=1, batch_size=64, weight_decay=0.1),
        methods=MethodsConfig(lora=LoraConfig(rank=128, alpha=256.0)),
        run=sections.RunConfig(keep_checkpoints="last"),
    )


def _preset(about: str, sweep: SweepConfig, tiny_slots: str) -> Preset:
    of_stream = {**TINY_STREAM, "facts_per_task": 1, "steps_per_task": 1, "lora_rank": 8}
    return Preset(
        source="2510.15103",
        about=about,
        sweep=sweep,
        tiny_sweep=sweep.with_values(**of_stream, slots=tiny_slots),
        pretrain=BASE,
        tiny_pretrain=BASE.with_values(**TINY_BASE, **TINY_MEMORY, memory_layers="2"),
        open_choices=OPEN_CHOICES,
    )


ABOUT = "facts one after another, a step each, in 64 paraphrases"
FACTS = _preset(ABOUT, _sweep("500", 1000), "50")
ABOUT = "chunks of documents one after another, a step each, in 64 augmentations"
DOCUMENTS = _preset(ABOUT, _sweep("10000", 1824), "200")
