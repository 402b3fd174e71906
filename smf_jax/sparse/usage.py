"""How often slots are read: counts of a batch, and the background statistics of general text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from smf_jax.shapes import SlotCounts, TokenMask

FORMAT = 1
# A table of whose slots more than this share of background batches touch one, on average, has few
# rare ones to choose from.
SATURATED = 0.1
_STORED = ("document_frequency", "accesses", "batches")
_RECORDED = ("tokens_per_batch", "corpus", "tokenizer", "fingerprint", "routing")


class Protection(NamedTuple):
    """Slots that earlier tasks wrote, each counted as read once in ``weight · B`` more batches."""

    written: Bool[Array, " N"]
    number: Int[Array, ""]
    weight: float | Float[Array, ""]


class PoolUsage(NamedTuple):
    """Usage of one pool by general text, as selection needs it."""

    document_frequency: SlotCounts  # ``df``, ``(N,)`` int32: background batches that touched a slot
    accesses: SlotCounts  # ``acc``, ``(N,)`` int32: their accesses
    batches: Int[Array, ""]  # ``B``, int32 scalar
    # ``Σ(df+1)``, float32 scalar, or ``None`` to sum where it is needed.
    frequency_total: Float[Array, ""] | None = None
    accesses_total: Float[Array, ""] | None = None  # ``Σ(acc+1)`` likewise
    # Slots that count as used more than they were, or ``None``.
    protection: Protection | None = None


def touched_share(usage: PoolUsage) -> float:
    """The mean over slots of ``df / B``: the share of background batches that touch a slot."""
    total = np.sum(np.asarray(usage.document_frequency), dtype=np.int64)
    return float(total / usage.document_frequency.shape[0] / max(1, int(usage.batches)))


def used_at(
    usage: PoolUsage, statistic: Literal["df", "acc"], slots: Int[Array, " m"] | None
) -> Float[Array, " m"]:
    """``df`` or ``acc`` of given slots (clipped to the table) or of all, protected ones as used."""

    def at(vector: Array) -> Array:
        # Gathered before anything is computed: no second vector of N.
        return vector if slots is None else vector.at[slots].get(mode="clip")

    used = at(usage.document_frequency if statistic == "df" else usage.accesses)
    used = used.astype(jnp.float32)
    if usage.protection is None:
        return used
    return jnp.where(at(usage.protection.written), used + _extra(usage, usage.protection), used)


def used_in_all(usage: PoolUsage, statistic: Literal["df", "acc"]) -> Float[Array, ""]:
    """``Σ(df+1)`` or ``Σ(acc+1)`` over all slots, protected ones counted as used."""
    total = usage.frequency_total if statistic == "df" else usage.accesses_total
    if total is None:
        vector = usage.document_frequency if statistic == "df" else usage.accesses
        total = jnp.sum(vector.astype(jnp.float32) + 1)
    if usage.protection is None:
        return total
    return total + usage.protection.number * _extra(usage, usage.protection)


def _extra(usage: PoolUsage, protection: Protection) -> Float[Array, ""]:
    return protection.weight * usage.batches.astype(jnp.float32)


def with_totals(usage: PoolUsage) -> PoolUsage:
    """Sums over all slots once, on the host and exactly, so that no step sums a vector of ``N``."""
    frequency, accesses = (
        jnp.asarray(np.sum(vector, dtype=np.int64) + vector.shape[0], jnp.float32)
        for vector in (np.asarray(usage.document_frequency), np.asarray(usage.accesses))
    )
    return usage._replace(frequency_total=frequency, accesses_total=accesses)


def count_accesses(slots: Int[Array, "t r"], valid: TokenMask, table_slots: int) -> SlotCounts:
    """Integer accesses of every slot over tokens × heads × reads, pads left out.

    Two heads of a token that choose one slot count twice. Counts are integers, so their sum over
    micro-batches, layers and devices does not depend on how a batch was split.
    """
    counted = jnp.where(valid[:, None], slots, table_slots)
    return jnp.zeros(table_slots, jnp.int32).at[counted.reshape(-1)].add(1, mode="drop")


def add_batch(usage: PoolUsage, counts: SlotCounts) -> PoolUsage:
    """Adds one background batch to a pool's statistics, given its ``(N,)`` int32 accesses."""
    # Without totals: those that were known are of fewer batches.
    frequency = usage.document_frequency + (counts > 0).astype(jnp.int32)
    return PoolUsage(frequency, usage.accesses + counts, usage.batches + 1)


def no_usage(table_slots: int) -> PoolUsage:
    """Statistics of no batches at all."""
    # Two vectors, not one twice: a donated buffer may be given away once only.
    frequency, accesses = jnp.zeros((2, table_slots), jnp.int32)
    return PoolUsage(frequency, accesses, jnp.zeros((), jnp.int32))


@dataclass(frozen=True)
class Background:
    """Background statistics of one base, and what they belong to.

    Routing depends on everything upstream of a read, so statistics are those of a base: they are
    refused for a model whose `fingerprint` differs.
    """

    pools: Mapping[str, PoolUsage]  # usage by pool path, its totals filled in
    # Non-pad tokens of a background batch. The ranking depends on it, because ``df`` saturates, so
    # it is a recorded setting.
    tokens_per_batch: int
    corpus: str  # name of the text
    tokenizer: str  # fingerprint of the tokenizer
    fingerprint: str  # of all base params upstream of the reads, patches excluded
    # The settings of the memory, as JSON has them; empty where they are not known.
    routing: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        totalled = {pool: with_totals(usage) for pool, usage in self.pools.items()}
        object.__setattr__(self, "pools", totalled)

    def require(self, fingerprint: str, tokenizer: str) -> None:
        """Refuses to serve another base than the one that was measured, naming both."""
        for name, mine, theirs in (
            ("model", self.fingerprint, fingerprint),
            ("tokenizer", self.tokenizer, tokenizer),
        ):
            if mine != theirs:
                raise ValueError(
                    f"background of another {name}: statistics of corpus {self.corpus!r} belong "
                    f"to {name} {mine[:12]}, this base has {theirs[:12]}; measure the background "
                    "again on this base"
                )

    def require_memory(self, routing: Mapping[str, Any], table_slots: Mapping[str, int]) -> None:
        """Refuses a memory of other sizes by pool path, or of other settings.

        Settings that are known on one side alone are not compared: versions have more and fewer.
        """
        sizes = {pool: usage.accesses.shape[0] for pool, usage in self.pools.items()}
        both = sorted(self.routing.keys() & routing.keys())
        differ = [name for name in both if self.routing[name] != routing[name]]
        for name, mine, theirs in (
            ("slots by table", sizes, dict(table_slots)),
            *((f"setting {name}", self.routing[name], routing[name]) for name in differ),
        ):
            if mine != theirs:
                raise ValueError(
                    f"background of another memory: statistics of corpus {self.corpus!r} are of "
                    f"{name} {mine}, this base has {theirs}; measure the background again on it"
                )

    def to_arrays(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays by path and JSON metadata, as checkpoints store them."""
        arrays = {
            f"{pool}/{name}": np.asarray(getattr(usage, name))
            for pool, usage in self.pools.items()
            for name in _STORED
        }
        recorded = {name: getattr(self, name) for name in _RECORDED}
        return arrays, {"kind": "background", "background_format": FORMAT, **recorded}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], metadata: Mapping[str, Any]) -> Background:
        """Reads what `to_arrays` gave; an error if that is no background of this format."""
        if metadata.get("background_format") != FORMAT:
            raise ValueError(
                f"background_format={metadata.get('background_format')!r} is not {FORMAT}: "
                "not a background file of this version; measure the background again"
            )
        pools = {}
        for pool in sorted({path.rsplit("/", 1)[0] for path in arrays}):
            frequency, accesses, batches = (jnp.asarray(arrays[f"{pool}/{f}"]) for f in _STORED)
            pools[pool] = PoolUsage(frequency, accesses, batches)
        recorded = {name: metadata[name] for name in _RECORDED if name != "routing"}
        return cls(pools, **recorded, routing=metadata.get("routing", {}))
