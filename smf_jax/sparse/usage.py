"""How often slots are read: counts of a batch, and the background statistics of general text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from smf_jax.shapes import SlotCounts, TokenMask

FORMAT = 1


class PoolUsage(NamedTuple):
    """Usage of one pool by general text, as selection needs it.

    Attributes:
      document_frequency: ``df``, ``(N,)`` int32: background batches that touched a slot.
      accesses: ``acc``, ``(N,)`` int32: their accesses.
      batches: ``B``, int32 scalar.
    """

    document_frequency: SlotCounts
    accesses: SlotCounts
    batches: Int[Array, ""]


def count_accesses(slots: Int[Array, "t r"], valid: TokenMask, table_slots: int) -> SlotCounts:
    """Integer accesses of every slot over tokens × heads × reads, pads left out.

    Two heads of a token that choose one slot count twice. Counts are integers, so their sum over
    micro-batches, layers and devices does not depend on how a batch was split.

    Args:
      slots: ``(t, r)`` int32.
      valid: ``(t,)`` bool, false on pads.
      table_slots: ``N``.

    Returns:
      ``(N,)`` int32.
    """
    counted = jnp.where(valid[:, None], slots, table_slots)
    return jnp.zeros(table_slots, jnp.int32).at[counted.reshape(-1)].add(1, mode="drop")


def add_batch(usage: PoolUsage, counts: SlotCounts) -> PoolUsage:
    """Adds one background batch to a pool's statistics.

    Args:
      usage: statistics so far.
      counts: ``(N,)`` int32 accesses of the batch.
    """
    return PoolUsage(
        document_frequency=usage.document_frequency + (counts > 0).astype(jnp.int32),
        accesses=usage.accesses + counts,
        batches=usage.batches + 1,
    )


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

    Attributes:
      pools: usage by pool path.
      tokens_per_batch: non-pad tokens of a background batch. The ranking depends on it, because
        ``df`` saturates, so it is a recorded setting.
      corpus: name of the text.
      tokenizer: fingerprint of the tokenizer.
      fingerprint: of all base leaves upstream of the reads, patches excluded.
    """

    pools: Mapping[str, PoolUsage]
    tokens_per_batch: int
    corpus: str
    tokenizer: str
    fingerprint: str

    def require(self, fingerprint: str, tokenizer: str) -> None:
        """Refuses to serve another base than the one that was measured.

        Raises:
          ValueError: naming both fingerprints.
        """
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

    def to_arrays(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays by path and JSON metadata, as checkpoints store them."""
        arrays = {
            f"{pool}/{name}": np.asarray(value)
            for pool, usage in self.pools.items()
            for name, value in usage._asdict().items()
        }
        metadata = {
            "kind": "background",
            "background_format": FORMAT,
            "tokens_per_batch": self.tokens_per_batch,
            "corpus": self.corpus,
            "tokenizer": self.tokenizer,
            "fingerprint": self.fingerprint,
        }
        return arrays, metadata

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], metadata: Mapping[str, Any]) -> Background:
        """Reads what `to_arrays` gave.

        Raises:
          ValueError: if the metadata is not that of a background of this format.
        """
        if metadata.get("background_format") != FORMAT:
            raise ValueError(
                f"background_format={metadata.get('background_format')!r} is not {FORMAT}: "
                "not a background file of this version; measure the background again"
            )
        pools = sorted({path.rsplit("/", 1)[0] for path in arrays})
        return cls(
            pools={
                pool: PoolUsage(*(jnp.asarray(arrays[f"{pool}/{f}"]) for f in PoolUsage._fields))
                for pool in pools
            },
            tokens_per_batch=metadata["tokens_per_batch"],
            corpus=metadata["corpus"],
            tokenizer=metadata["tokenizer"],
            fingerprint=metadata["fingerprint"],
        )
