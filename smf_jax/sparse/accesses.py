"""Accesses of one batch, as a vector of ``N`` or sorted reads, whichever is cheaper; both agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

from smf_jax.cpu_kernels.library import is_available
from smf_jax.cpu_kernels.sorted_runs import sorted_runs
from smf_jax.mesh import DATA, parts_along, sum_over
from smf_jax.shapes import SlotCounts, SlotIds, TokenMask
from smf_jax.sparse.usage import count_accesses

Form = Literal["vector", "sorted"]

# Weights are rounded to this before they are summed, so that their sums are those of integers.
MASS_UNIT = 2.0**-20
_LARGEST_WEIGHT = 2047.0
_BITS = 31  # of a number that is summed


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Accesses:
    """How often a batch read each slot."""

    # ``None`` in the vector form, where a place is a slot; in the sorted form ``(m,)`` int32, the
    # slots of all reads in ascending order, those of pads (id ``N``) last.
    slots: Int[Array, " m"] | None
    # Int32 reads, ``(N,)``, or ``(m,)`` at the last of each run of equal slots, zero elsewhere.
    counts: Int[Array, " m"]
    amounts: Float[Array, " m"] | None  # float32, scored in place of `counts`, or ``None``
    total: Int[Array, ""] | Float[Array, ""]  # sum of what is scored
    table_slots: int = field(metadata={"static": True})  # ``N``


def form_for(reads: int, table_slots: int) -> Form:
    """The cheaper form for so many reads of a table."""
    return "sorted" if table_slots > sorted_from() * reads else "vector"


def sorted_from() -> float:
    """How many slots for each read a table has from which it is not walked over.

    All of a step after its forward took, on a CPU with 65,536 reads, 1.9, 3.3, 5.5 and 30 ms at
    16k, 262k, 1M and 4M slots in the vector form; in the sorted form 3 ms at all of them with the
    kernel that sorts, 7 to 8 without. Accelerators go by the latter.
    """
    return 4 if is_available() else 24


def accesses_in_vector(counts: SlotCounts) -> Accesses:
    """The vector form of counts that are at hand."""
    return Accesses(None, counts, None, jnp.sum(counts), counts.shape[0])


def count_reads(
    reads: Sequence[Int[Array, "_rows _r"]],
    valid: TokenMask,
    table_slots: int,
    weights: Sequence[Float[Array, "_rows _r"]] | None = None,
    form: Form | None = None,
) -> Accesses:
    """Accesses of a pool by all layers that read it, pads left out; the form goes by size.

    Where ``weights`` of the reads are given, the sum of the sizes of a slot's weights is scored
    instead of the number of its reads. Each is rounded to a multiple of ``2⁻²⁰`` and summed as an
    integer, so that sums do not depend on how a batch was split. Where devices along ``data`` share
    a batch, its accesses are those of all of them, in the vector form, which can be summed. No
    layer's reads are a ValueError.
    """
    check_reads(reads)
    ids = jnp.concatenate([counted_ids(slots, valid, table_slots) for slots in reads])
    usual = "vector" if parts_along(DATA) > 1 else form_for(ids.shape[0], table_slots)
    form = form or usual
    number = jnp.sum(valid, dtype=jnp.int32) * (sum(slots.size for slots in reads) // valid.size)
    if form == "vector":
        in_order, length = None, table_slots
        counts = count_accesses(ids[:, None], jnp.ones(ids.shape, bool), table_slots)
        counts, number = sum_over(DATA, (counts, number))
    else:
        in_order, counts = _sorted_runs(ids, table_slots)
        length = ids.shape[0]
    if weights is None:
        return Accesses(in_order, counts, None, number, table_slots)
    places = ids
    if in_order is not None:
        # The last of a slot's run: where its count stands.
        places = jnp.searchsorted(in_order, ids, side="right").astype(jnp.int32) - 1
    mass = jnp.concatenate([weight.reshape(-1) for weight in weights])
    amounts, total = _masses(mass, ids < table_slots, places, length)
    return Accesses(in_order, counts, amounts, total, table_slots)


def check_reads(reads: Sequence[object]) -> None:
    """Refuses a pool that no layer reads."""
    if not reads:
        raise ValueError("reads is empty: give the reads of at least one layer of the pool")


def counts_at(accesses: Accesses, slots: SlotIds) -> Int[Array, " s"]:
    """Accesses of given slots, zero for the id ``N``."""
    if accesses.slots is None:
        return accesses.counts.at[slots].get(mode="fill", fill_value=0)
    first, end = (jnp.searchsorted(accesses.slots, slots, side=side) for side in ("left", "right"))
    return jnp.where(slots < accesses.table_slots, end - first, 0).astype(jnp.int32)


def counted_ids(
    slots: Int[Array, "_rows r"], valid: TokenMask, table_slots: int
) -> Int[Array, " m"]:
    """The slots of all reads in one row, ``N`` for those of pads.

    Where there are more rows of slots than tokens, as many stand for each token.
    """
    valid = jnp.repeat(valid, slots.shape[0] // valid.shape[0])
    return jnp.where(valid[:, None], slots, table_slots).reshape(-1).astype(jnp.int32)


def _sorted_runs(
    ids: Int[Array, " m"], table_slots: int
) -> tuple[Int[Array, " m"], Int[Array, " m"]]:
    """The ids in order, and their `run_lengths`."""

    def plain(ids: Array) -> tuple[Array, Array]:
        # Keys alone: carrying anything else along makes the sort four times slower on a CPU.
        in_order = jnp.sort(ids, stable=False)
        return in_order, run_lengths(in_order, table_slots)

    on_cpu = partial(sorted_runs, table_slots=table_slots) if is_available() else plain
    return lax.platform_dependent(ids, cpu=on_cpu, default=plain)


def run_lengths(in_order: Int[Array, " m"], table_slots: int) -> Int[Array, " m"]:
    """At the last of each run of equal ids its length, 0 elsewhere and for the ids ``N``."""
    differs = in_order[1:] != in_order[:-1]
    edge = jnp.ones(1, bool)
    place = jnp.arange(in_order.shape[0], dtype=jnp.int32)
    start = lax.cummax(jnp.where(jnp.concatenate([edge, differs]), place, 0))
    is_last = jnp.concatenate([differs, edge]) & (in_order < table_slots)
    return jnp.where(is_last, place - start + 1, 0)


def _masses(
    weights: Float[Array, " m"], valid: Bool[Array, " m"], places: Int[Array, " m"], length: int
) -> tuple[Float[Array, " l"], Float[Array, ""]]:
    """Sums of weights at their places, and of all, as of integers: whatever the order."""
    weights = jnp.minimum(jnp.abs(weights.astype(jnp.float32)), _LARGEST_WEIGHT)
    whole = jnp.where(valid, jnp.round(weights / MASS_UNIT), 0).astype(jnp.int32)
    words, bits = _words(whole)
    sums = jnp.zeros((len(words), length), jnp.uint32).at[:, places].add(words, mode="drop")
    total = jnp.sum(words, axis=1, dtype=jnp.uint32)
    sums, total = sum_over(DATA, (_carried(sums, bits), _carried(total, bits)))
    return _joined(sums, bits) * MASS_UNIT, _joined(total, bits) * MASS_UNIT


def exact_sum(whole: Int[Array, " m"]) -> Float[Array, ""]:
    """Sum of non-negative int32 numbers that may exceed one, the same whatever the order."""
    words, bits = _words(whole)
    return _joined(_carried(jnp.sum(words, axis=1, dtype=jnp.uint32), bits), bits)


def _words(whole: Int[Array, " m"]) -> tuple[UInt[Array, "words m"], int]:
    """Numbers in words of so few bits, the lowest first, that the sum of all ``m`` fits in 32.

    The last word is empty: it is for what is carried, also where devices add up their sums.
    """
    bits = 32 - max(1, whole.shape[0]).bit_length()
    parts = [(whole >> first) & (2**bits - 1) for first in range(0, _BITS, bits)]
    return jnp.stack([*parts, jnp.zeros_like(whole)]).astype(jnp.uint32), bits


def _carried(words: UInt[Array, "words ..."], bits: int) -> UInt[Array, "words ..."]:
    """The same sums with each word but the last below ``2^bits``."""
    found, carry = [], jnp.zeros_like(words[0])
    for word in words[:-1]:
        word = word + carry
        found.append(word & (2**bits - 1))
        carry = word >> bits
    return jnp.stack([*found, words[-1] + carry])


def _joined(words: UInt[Array, "words ..."], bits: int) -> Float[Array, "..."]:
    parts = [word.astype(jnp.float32) * 2.0 ** (bits * n)
             for n, word in enumerate(_carried(words, bits))]  # fmt: skip
    return sum(reversed(parts), jnp.zeros_like(parts[0]))
