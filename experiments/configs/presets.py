"""Presets: every choice of a published method, as values of the commands' flags.

A flag that is given wins over its preset. ``--scale=tiny`` shrinks sizes and lengths, not choices:
the same code path in a minute or two on a processor. What a source leaves open is our choice and
stands under ``open_choices``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from smf_jax.continual.config import PretrainFlags, SweepFlags

Command = Literal["sweep", "pretrain"]
SCALES = ("full", "tiny")


@dataclass(frozen=True)
class Preset:
    """The settings of one paper.

    Attributes:
      source: the paper, by its number.
      about: what it is, in a line.
      sweep: values of the flags of ``experiments.sweep``.
      pretrain: values of the flags of ``experiments.pretrain``, where the memory is there from
        the start; empty for retrofits, whose base is a checkpoint.
      tiny_sweep: what ``--scale=tiny`` changes in the sweep.
      tiny_pretrain: what it changes in the base, or makes the base of a retrofit from.
      open_choices: flags on which the source is silent.
    """

    source: str
    about: str
    sweep: Mapping[str, Any]
    pretrain: Mapping[str, Any] = field(default_factory=dict)
    tiny_sweep: Mapping[str, Any] = field(default_factory=dict)
    tiny_pretrain: Mapping[str, Any] = field(default_factory=dict)
    open_choices: tuple[str, ...] = ()


# A base of four narrow blocks that a processor pretrains in seconds.
_TINY_BASE = {
    "known_facts": 100,
    "relations": 8,
    "vocabulary": 512,
    "width": 32,
    "layers": 4,
    "heads": 2,
    "hidden_width": 64,
    "steps": 60,
    "batch_size": 16,
    "text_batch_size": 4,
    "warmup_steps": 5,
}
_TINY_MEMORY = {"keys_per_half": 16, "reads": 4, "key_width": 16, "value_width": 0}
_TINY_STREAM = {
    "tasks": 2,
    "facts_per_task": 4,
    "steps_per_task": 4,
    "background_batches": 20,
    "background_batch_size": 4,
    "probe_limit": 40,
}
_TINY_LIN = {**_TINY_STREAM, "facts_per_task": 1, "steps_per_task": 1, "lora_rank": 8}

# 2510.15103, section 4: 1.3B parameters, 22 blocks, the feed-forward of block 12 is the memory.
_LIN_BASE = {
    "width": 2048,
    "layers": 22,
    "heads": 16,
    "hidden_width": 5632,
    "memory_layers": "12",
    "keys_per_half": 1024,
    "memory_heads": 4,
    "reads": 32,
    "key_width": 1024,
    "value_width": 1024,
    "gate": "silu",
    "query_norm": "none",
    "qk_norm": True,
    "whiten_queries": False,
}
_LIN_BASE_OPEN = ("width", "heads", "hidden_width", "key_width", "qk_norm")
_LIN_SWEEP = {
    "methods": "smf,full,lora",
    "rule": "tfidf",
    "granularity": "per_step",
    "optimizer": "smf:sgd/full:adamw/lora:adamw",
    "weight_decay": 0.1,
    "facts_per_task": 1,
    "steps_per_task": 1,
    "batch_size": 64,
    "batch_order": "facts",
    "changed_share": 0.0,
    "background_batches": 1000,
    "background_batch_size": 64,
    "lora_rank": 128,
    "lora_alpha": 256.0,
    "keep_checkpoints": "last",
}
_LIN_SWEEP_OPEN = ("background_batch_size", "lora_alpha", "changed_share")

# 2604.05248 and 2605.03229 retrofit Qwen2.5-0.5B alike: 17,337,088 parameters a layer.
_QWEN_MEMORY = {
    "layers": "6,12,18",
    "keys_per_half": 128,
    "memory_heads": 4,
    "reads": 16,
    "key_width": 256,
    "value_width": 896,
    "gate": "silu",
    "query_norm": "none",
    "qk_norm": False,
    "key_scale": "memory+",
    "whiten_queries": False,
    "heal_routing": True,
}
_QWEN_UPDATE = {
    "optimizer": "adamw",
    "clip": 1.0,
    "schedule": "cosine",
    "warmup_steps": 100,
}
_TINY_RETROFIT = {
    **_TINY_MEMORY,
    **_TINY_STREAM,
    "base": "world",
    "layers": "1,2,3",
    "heal_steps": 10,
    "heal_batch_size": 4,
    "warmup_steps": 1,
    "slots": "16,64",
    "batch_size": 16,
}
_GOYAL = {
    **_QWEN_MEMORY,
    **_QWEN_UPDATE,
    "methods": "smf",
    "retrofit": "replace",
    "heal_steps": 1250,
    "heal_learning_rate": 5e-4,
    "heal_batch_size": 16,
    "rule": "kl_df",
    "granularity": "per_step",
    "slots": "128,256,512",
    "lr": "5e-4",
    "batch_size": 16,
    "tasks": 10,
    "facts_per_task": 100,
    "steps_per_task": 200,
}
_ICML = {
    **_QWEN_MEMORY,
    **_QWEN_UPDATE,
    "methods": "smf,lora,full",
    "retrofit": "add",
    "alpha": 0.01,
    "rule": "smf:kl_acc",
    "granularity": "per_micro_batch",
    "micro_batches": 4,
    "slots": "512",
    "lr": "smf:5e-4/lora:2e-4/full:5e-5",
    "lora_rank": 16,
    "lora_alpha": 32.0,
    "batch_size": 16,
    "tasks": 1,
    "facts_per_task": 60_000,
    "steps_per_task": 11_250,
    "seeds": "0,1,2",
}
_ICML_OPEN = ("micro_batches", "heal_steps", "heal_batch_size", "lora_targets")
_TINY_ICML = {**_TINY_RETROFIT, "tasks": 2, "slots": "64", "seeds": "0"}

_MEMORY_PLUS = {
    "width": 1024,
    "layers": 24,
    "heads": 16,
    "hidden_width": 4096,
    "memory_layers": "4,12,20",
    "shared_pool": True,
    "keys_per_half": 1024,
    "memory_heads": 4,
    "reads": 32,
    "key_width": 512,
    "value_width": 1024,
    "gate": "silu",
    "query_norm": "none",
    "qk_norm": True,
    "whiten_queries": False,
}
_PKM = {
    "width": 1024,
    "layers": 16,
    "heads": 16,
    "hidden_width": 4096,
    "memory_layers": "10",
    "keys_per_half": 512,
    "memory_heads": 4,
    "reads": 32,
    "key_width": 512,
    "value_width": 1024,
    "gate": "none",
    "query_norm": "batch",
    "qk_norm": False,
    "key_scale": "pkm",
    "whiten_queries": False,
}
_TINY_PRETRAINED = {**_TINY_BASE, **_TINY_MEMORY, "memory_layers": "2"}
_NO_MEMORY = {**_TINY_BASE, "memory_layers": ""}

PRESETS: dict[str, Preset] = {
    "lin2025-facts": Preset(
        "2510.15103",
        "facts one after another, a step each, in 64 paraphrases",
        sweep={
            **_LIN_SWEEP,
            "slots": "500",
            "lr": "smf:2/full:5e-6/lora:5e-6,5e-5,2e-4",
            "tasks": 1000,
        },
        pretrain=_LIN_BASE,
        tiny_sweep={**_TINY_LIN, "slots": "50"},
        tiny_pretrain=_TINY_PRETRAINED,
        open_choices=(*_LIN_BASE_OPEN, *_LIN_SWEEP_OPEN),
    ),
    "lin2025-documents": Preset(
        "2510.15103",
        "chunks of documents one after another, a step each, in 64 augmentations",
        sweep={
            **_LIN_SWEEP,
            "slots": "10000",
            "lr": "smf:2/full:5e-6/lora:5e-6,5e-5,2e-4",
            "tasks": 1824,
        },
        pretrain=_LIN_BASE,
        tiny_sweep={**_TINY_LIN, "slots": "200"},
        tiny_pretrain=_TINY_PRETRAINED,
        open_choices=(*_LIN_BASE_OPEN, *_LIN_SWEEP_OPEN),
    ),
    "goyal2026": Preset(
        "2604.05248",
        "feed-forwards of Qwen2.5-0.5B-Instruct replaced, healed, slots ranked by KL",
        sweep=_GOYAL,
        tiny_sweep=_TINY_RETROFIT,
        tiny_pretrain=_NO_MEMORY,
        open_choices=("batch_size", "facts_per_task", "steps_per_task"),
    ),
    "smf-icml2026": Preset(
        "2605.03229",
        "a memory beside the feed-forwards of Qwen2.5-0.5B-Instruct",
        sweep=_ICML,
        tiny_sweep=_TINY_ICML,
        tiny_pretrain=_NO_MEMORY,
        open_choices=_ICML_OPEN,
    ),
    "smf-icml2026-scale": Preset(
        "2605.03229",
        "the same with the scale α trained too (+S)",
        sweep={**_ICML, "train_alpha": True},
        tiny_sweep=_TINY_ICML,
        tiny_pretrain=_NO_MEMORY,
        open_choices=_ICML_OPEN,
    ),
    "smf-icml2026-replace": Preset(
        "2605.03229",
        "the same in place of the feed-forwards",
        sweep={**_ICML, "retrofit": "replace"},
        tiny_sweep=_TINY_ICML,
        tiny_pretrain=_NO_MEMORY,
        open_choices=_ICML_OPEN,
    ),
    "memory-plus-373m": Preset(
        "2412.09764",
        "one pool read by three blocks, there from the start",
        sweep={"rule": "tfidf"},
        pretrain=_MEMORY_PLUS,
        tiny_sweep={**_TINY_STREAM, "methods": "smf", "slots": "64"},
        tiny_pretrain={**_TINY_BASE, **_TINY_MEMORY, "memory_layers": "1,2,3"},
        open_choices=("hidden_width", "key_width"),
    ),
    "pkm2019": Preset(
        "1907.05242",
        "a plain product-key memory with query BatchNorm, there from the start",
        sweep={"rule": "tfidf"},
        pretrain=_PKM,
        tiny_sweep={**_TINY_STREAM, "methods": "smf", "slots": "64"},
        tiny_pretrain=_TINY_PRETRAINED,
        open_choices=("memory_layers",),
    ),
}


def preset_values(name: str, scale: str, command: Command) -> Mapping[str, Any]:
    """The values that a preset gives the flags of a command; none without a preset.

    Args:
      name: of the preset, or empty.
      scale: ``full`` or ``tiny``.
      command: whose flags.

    Raises:
      ValueError: for an unknown preset or scale, or a scale without a preset.
    """
    if scale not in SCALES:
        raise ValueError(f"--scale={scale} is unknown; choose from {', '.join(SCALES)}")
    if not name:
        if scale != "full":
            raise ValueError(f"--scale={scale} shrinks a preset; give --preset with it")
        return {}
    if name not in PRESETS:
        raise ValueError(f"--preset={name} is unknown; choose from {', '.join(PRESETS)}")
    preset = PRESETS[name]
    full, tiny = {
        "sweep": (preset.sweep, preset.tiny_sweep),
        "pretrain": (preset.pretrain, preset.tiny_pretrain),
    }[command]
    return {**full, **tiny} if scale == "tiny" else full


def base_recipe(flags: SweepFlags) -> PretrainFlags:
    """How the built-in base of a sweep is made."""
    made = preset_values(flags.preset, flags.scale, "pretrain")
    return PretrainFlags(**{**made, "world_seed": flags.base_seed, "seed": flags.base_seed})
