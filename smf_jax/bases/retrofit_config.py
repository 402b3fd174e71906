"""What the commands can be told of a memory that is put into a base."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

from smf_jax.bases.sections import (
    BASE_PRECISION_HELP,
    BasePrecision,
    DataConfig,
    OutputSection,
    SourceSection,
)
from smf_jax.configuration import LIMIT, SEED, Configuration, PathText, part, setting
from smf_jax.errors import blame_flag
from smf_jax.memory.config import Gate, MemoryConfig, MemoryInit
from smf_jax.models.config import MemoryPlacement
from smf_jax.training.healing import HealingLoss

# A memory of the commands: as wide as its model, with the norms that keep its table in use.
MEMORY = MemoryConfig(value_width=0, qk_norm=True)
# "heads" of a memory beside those of the attention.
MEMORY_NAMES = {"heads": "memory_heads"}


class Usual(NamedTuple):
    """What a retrofit does where it is not told, by how its rows start."""

    alpha: float | None
    gate: Gate
    heal_steps: int
    keys_per_half: int  # 0: of `SIZES` the one that fits the text


# Keys of a half that a table may be given where none are told: 16,384 slots to 16.8 million.
SIZES = (128, 256, 512, 1024, 2048, 4096)
USUAL: dict[MemoryInit, Usual] = {
    "zero": Usual(alpha=None, gate="none", heal_steps=0, keys_per_half=0),
    "normal": Usual(alpha=0.01, gate="silu", heal_steps=200, keys_per_half=128),
}


@dataclass(frozen=True)
class RetrofitMemory(MemoryConfig):
    """The memory of a retrofit, some of whose choices may be left to how its rows start."""

    keys_per_half: int = setting(
        0,
        "n; the table has n² slots; 0: 128 for normal rows, and for zero ones the smallest of "
        f"{', '.join(map(str, SIZES))} of whose slots a background batch touches a tenth at most",
        first=True,
    )
    gate: Gate | None = setting(  # pyright: ignore[reportIncompatibleVariableOverride]
        None,
        "silu, scalar, context or none [none of rows that start at zero; of normal ones silu, or "
        "context of router=ngram]",
    )

    def __post_init__(self) -> None:
        keys = self.keys_per_half or SIZES[-1]
        self._as(MemoryConfig, keys_per_half=keys, gate=self.gate or "none")  # which checks them

    def chosen(self, usual: Usual) -> MemoryConfig:
        """The memory, with what is usual in place of what was not told."""
        keys = self.keys_per_half or usual.keys_per_half
        kind = MemoryConfig if keys else RetrofitMemory
        gate = self.gate or ("context" if self.is_hashed and usual.gate != "none" else usual.gate)
        return self._as(kind, keys_per_half=keys, gate=gate)

    def _as(self, kind: type[MemoryConfig], **changes: Any) -> MemoryConfig:
        return kind(**{**{each.name: getattr(self, each.name) for each in fields(self)}, **changes})


RETROFIT_MEMORY = RetrofitMemory(**{**MEMORY.to_dict(), "gate": None, "keys_per_half": 0})


@dataclass(frozen=True)
class RetrofitConfig(Configuration):
    """The memory that is put into a base that has none, and its healing.

    Where ``None``, a setting is as usual for how the rows start; see `resolved`.
    """

    retrofit: Literal["none", "add", "replace"] = setting(
        "none",
        "put a fresh memory into a base that has none: add (beside the feed-forward), replace (in "
        "its place) or none",
        first=True,
    )
    memory_init: MemoryInit | None = setting(
        None,
        "how its rows start: zero (the base is bit-identical until the first step, and nothing has "
        "to be healed) or normal [zero for add, normal for replace]",
        first=True,
    )
    layers: str = setting(
        "",
        "blocks to retrofit, from 0, as in 6,12,18; empty: up to three, spread over the depth",
        first=True,
    )
    shared_pool: bool = setting(False, "one table for all of them")
    alpha: float | None = setting(
        None, "initial α of --retrofit=add [0.01 of normal rows; no α, hence one, of zero ones]"
    )
    memory: MemoryConfig = part(RETROFIT_MEMORY, names=MEMORY_NAMES)
    heal_steps: int | None = setting(
        None,
        "steps that train only the new memory on text (a sweep's: its background); 0 for none "
        "[200 for normal rows, 0 for zero ones]",
        first=True,
        least=0,
    )
    heal_learning_rate: float = setting(5e-3, "peak of AdamW's rate while healing", above=0)
    heal_batch_size: int = setting(16, "windows of text in a healing batch", least=1)
    heal_loss: HealingLoss = setting(
        "text",
        "text, or distill: what the feed-forward that --retrofit=replace removed computed",
    )
    heal_routing: bool = setting(
        False,
        "healing also trains queries and keys, as published; few slots then take most reads",
    )
    whiten_queries: bool = setting(
        True,
        "make the queries, if there are any, white on the text, before healing and again after it: "
        "the table is used evenly",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_layers(self.layers, "layers")

    @property
    def is_wanted(self) -> bool:
        """Whether memories are put in: what is trained is then not the model that was named."""
        return self.retrofit != "none"

    def resolved(self) -> RetrofitConfig:
        """The same with every setting told: what was left open is as usual for its rows."""
        init = self.memory_init or ("zero" if self.retrofit == "add" else "normal")
        usual = USUAL[init]
        told = self.memory
        return replace(
            self,
            memory_init=init,
            alpha=usual.alpha if self.alpha is None else self.alpha,
            memory=told.chosen(usual) if isinstance(told, RetrofitMemory) else told,
            heal_steps=usual.heal_steps if self.heal_steps is None else self.heal_steps,
        )

    def sized(self, keys_per_half: int) -> RetrofitConfig:
        """The same, resolved, with a table of so many keys in a half."""
        memory = replace(self.memory, keys_per_half=keys_per_half)
        return replace(self, memory=memory).resolved()

    def placement(self, width: int, layers: int) -> MemoryPlacement:
        """The placement in a model of this size; a ValueError names the flag that does not fit."""
        places = parse_layers(self.layers, "layers") or quarter_layers(layers)
        outside = [layer for layer in places if not 0 <= layer < layers]
        if outside:
            raise ValueError(
                f"--layers={self.layers}: layers {outside} are outside of this model, which has "
                f"layers 0 to {layers - 1}"
            )
        if self.retrofit == "none":
            raise ValueError("--retrofit=none puts no memory in; choose add or replace")
        told = self.resolved()
        if told.memory_init == "zero" and self.retrofit == "replace":
            raise ValueError(
                "--memory_init=zero with --retrofit=replace: a memory in place of a feed-forward "
                "has to be healed; give --memory_init=normal or --retrofit=add"
            )
        if not told.memory.keys_per_half:
            raise ValueError("--keys_per_half=0: the table has no size yet; see `sized`")
        with blame_flag("--"):
            return MemoryPlacement(
                places,
                self.retrofit,
                told.memory.for_width(width),
                self.shared_pool,
                told.alpha,
                told.memory_init or "normal",
            )


def parse_layers(text: str, name: str) -> tuple[int, ...]:
    """Reads ``6,12,18``; raises ValueError naming the flag."""
    try:
        return tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise ValueError(f"--{name}={text}: expected layer numbers, as in 6,12,18") from None


def quarter_layers(layers: int) -> tuple[int, ...]:
    """Blocks at a quarter, a half and three quarters of the depth: 6, 12, 18 of 24 (2604.05248)."""
    return tuple(sorted({layers // 4, layers // 2, 3 * layers // 4}))


def check_whitening(whiten: bool, memory: MemoryConfig) -> None:
    """Refuses to whiten queries that have no bias to hold their mean."""
    if whiten and not memory.is_hashed and not memory.query_bias:
        raise ValueError(
            "--whiten_queries with --noquery_bias: whitening moves the queries' mean into their "
            "bias; give --nowhiten_queries or --query_bias"
        )


@dataclass(frozen=True)
class HealingTextSection(Configuration):
    """The text that a retrofit is healed on."""

    heal_texts: PathText = setting(
        "", "text to heal on: a file, a directory or tfds:NAME:SPLIT", first=True
    )
    heal_length: int = setting(64, "tokens of a window of it", least=1)
    heal_tokens: int = setting(
        1_000_000, "tokens of --heal_texts that are read", least=1, most=LIMIT
    )
    seed: int = setting(0, "seed of initial values and of the order of batches", least=0, most=SEED)


@dataclass(frozen=True)
class RetrofitSource(SourceSection):
    """The model that is retrofitted."""

    base_precision: BasePrecision = setting(None, BASE_PRECISION_HELP)


@dataclass(frozen=True)
class RetrofitCommandConfig(Configuration):
    """What ``experiments.retrofit`` is told."""

    source: RetrofitSource = part(RetrofitSource(), "Base")
    data: DataConfig = part(DataConfig(), "Base")
    retrofit: RetrofitConfig = part(RetrofitConfig(retrofit="add"), "Retrofit")
    text: HealingTextSection = part(HealingTextSection(), "Retrofit")
    run: OutputSection = part(OutputSection(), "Output")
