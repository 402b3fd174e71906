"""The configuration of the command that pretrains a base."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from smf_jax.bases.retrofit_config import MEMORY, MEMORY_NAMES, check_whitening
from smf_jax.bases.sections import DataConfig, OutputSection, PresetConfig
from smf_jax.configuration import LIMIT, SEED, Configuration, PathText, part, setting
from smf_jax.data.world.world import WorldConfig
from smf_jax.errors import blame_flag
from smf_jax.memory.config import MemoryConfig


@dataclass(frozen=True)
class WorldSection(Configuration):
    """The built-in world."""

    world_seed: int = setting(0, "seed of entities, facts and the stream", most=SEED)
    known_facts: int = setting(1000, "facts that the base is taught", first=True)
    relations: int = setting(WorldConfig.relations, "relations in use")
    texts: PathText = setting(
        "", "further text to learn from: a file, a directory or tfds:NAME:SPLIT"
    )
    text_tokens: int = setting(1_000_000, "tokens of --texts that are read", least=1, most=LIMIT)


@dataclass(frozen=True)
class DecoderSection(Configuration):
    """The decoder that is pretrained."""

    vocabulary: int = setting(2048, "tokens of the byte-level BPE that is trained")
    width: int = setting(128, "model width d", first=True, least=1)
    layers: int = setting(4, "blocks", first=True, least=1, most=1000)
    heads: int = setting(4, "attention heads", least=1)
    hidden_width: int = setting(256, "width of the feed-forwards", least=1)
    max_positions: int = setting(512, "longest sequence")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % (2 * self.heads):
            raise ValueError(
                f"--width={self.width} is not a multiple of twice --heads={self.heads}; every head "
                "takes an even share of it"
            )


@dataclass(frozen=True)
class MemorySection(Configuration):
    """The memory that is there from the start."""

    memory_layers: str = setting(
        "1",
        "blocks whose feed-forward is a memory, from 0, as in 1,2; empty for none",
        first=True,
    )
    shared_pool: bool = setting(False, "one table for all memory layers")
    memory: MemoryConfig = part(MEMORY, names=MEMORY_NAMES)
    whiten_queries: bool = setting(
        True, "at the end, make the queries white on the data: the table is used evenly"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory_layers:
            check_whitening(self.whiten_queries, self.memory)


@dataclass(frozen=True)
class PretrainingSection(Configuration):
    """How a base is trained."""

    steps: int = setting(1200, "steps", first=True, least=1)
    batch_size: int = setting(64, "paraphrases of facts in a batch", least=1)
    text_batch_size: int = setting(16, "windows of text in a batch, beside the facts", least=0)
    learning_rate: float = setting(
        3e-3, "peak of AdamW's rate; warm-up, then cosine to 0", first=True, above=0
    )
    warmup_steps: int = setting(50, "steps of warm-up", least=0)
    weight_decay: float = setting(0.01, "decoupled decay", least=0)
    prompt_loss_weight: float = setting(0.1, "weight of the words that are not the answer", least=0)
    seed: int = setting(0, "seed of initial values and of the order of batches", least=0, most=SEED)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"--warmup_steps={self.warmup_steps} leaves no step of --steps={self.steps} after "
                "it; lower the one or raise the other"
            )


@dataclass(frozen=True)
class PretrainConfig(Configuration):
    """What makes a built-in base, and where it goes."""

    preset: PresetConfig = part(PresetConfig(), "Preset")
    run: OutputSection = part(OutputSection(), "Output")
    world: WorldSection = part(WorldSection(), "The built-in world")
    data: DataConfig = part(DataConfig(), "Further text")
    model: DecoderSection = part(DecoderSection(), "The model")
    memory: MemorySection = part(MemorySection(), "The memory")
    training: PretrainingSection = part(PretrainingSection(), "Training")

    def world_config(
        self, tasks: int = 0, facts_per_task: int = 20, changed: float = 0.2
    ) -> WorldConfig:
        """The built-in world with a stream of so many tasks; the base's share is the same."""
        with blame_flag("--"):
            return WorldConfig(
                seed=self.world.world_seed,
                known_facts=self.world.known_facts,
                relations=self.world.relations,
                tasks=tasks,
                facts_per_task=facts_per_task,
                changed_share=changed,
            )

    def recipe(self) -> dict[str, Any]:
        """Everything that decides what the base is, by flag; a base's key in the cache."""
        elsewhere = {"out", "overwrite", "preset", "scale", "data_dir", "download"}
        if not self.data.text_field:  # the key of bases from before there was one
            elsewhere.add("text_field")
        return {name: each for name, each in self.values().items() if name not in elsewhere}
