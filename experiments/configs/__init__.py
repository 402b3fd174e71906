"""Recipes: a file for each paper or protocol, and the list of presets by name."""

from __future__ import annotations

from typing import TypeVar

from experiments.configs import (
    goyal2026,
    lin2025,
    memory_plus,
    pkm2019,
    smf_icml2026,
    smollm2,
    world,
)
from experiments.configs.preset import Preset
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.configuration import Configuration
from smf_jax.continual.config import SweepConfig

Config = TypeVar("Config", bound=Configuration)

SCALES = ("full", "tiny")
PRESETS: dict[str, Preset] = {
    "lin2025-facts": lin2025.FACTS,
    "lin2025-documents": lin2025.DOCUMENTS,
    "goyal2026": goyal2026.REPLACE,
    "smf-icml2026": smf_icml2026.ADD,
    "smf-icml2026-scale": smf_icml2026.SCALE,
    "smf-icml2026-replace": smf_icml2026.REPLACE,
    "memory-plus-373m": memory_plus.M373,
    "pkm2019": pkm2019.PLAIN,
    "smollm2": smollm2.QUESTIONS,
    "factoids": smollm2.FACTOIDS,
    "cortex": smollm2.CORTEX,
    "long-stream": world.LONG,
    "updates": world.UPDATES,
}


def preset_of(config: type[Config], name: str, scale: str = "full") -> Config:
    """What a preset tells a command, or the defaults; `ValueError` for an unknown name or scale."""
    if scale not in SCALES:
        raise ValueError(f"--scale={scale} is unknown; choose from {', '.join(SCALES)}")
    if not name:
        if scale != "full":
            raise ValueError(f"--scale={scale} shrinks a preset; give --preset with it")
        return config()
    if name not in PRESETS:
        raise ValueError(f"--preset={name} is unknown; choose from {', '.join(PRESETS)}")
    kind = {SweepConfig: "sweep", PretrainConfig: "pretrain"}[config]
    return getattr(PRESETS[name], kind if scale == "full" else f"tiny_{kind}")


def base_recipe(config: SweepConfig) -> PretrainConfig:
    """How the built-in base of a sweep is made."""
    made = preset_of(PretrainConfig, config.preset.preset, config.preset.scale)
    seed = config.base.base_seed
    return made.with_values(world_seed=seed, seed=seed)
