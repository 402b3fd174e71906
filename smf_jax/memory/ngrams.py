"""Slots of n-grams: a function of the last tokens' ids alone, known before the forward pass.

Hashed n-gram tables as in Engram (2601.07372, section 2), BLT (2412.09871, section 3.2.1) and
Over-Tokenized Transformers (2501.16975): every head has a part of the table for each order ``n``,
and reads there the row that its own hash of the last ``n`` ids names.
"""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt

from smf_jax.hashing import GOLDEN, finalized

NONE = -1  # where no token stands


class Recent(NamedTuple):
    """The last tokens at every place, and those that a continuation has before it."""

    tokens: Int[Array, "b t w"]  # int32; the token itself first; `NONE` where the text begins
    before: Int[Array, "b _before"]  # the last ``w - 1`` tokens of every row, the latest last


def recent_tokens(
    tokens: Int[Array, "b t"],
    valid: Bool[Array, "b t"] | Int[Array, "b t"],
    count: int,
    before: Int[Array, "b _before"] | None = None,
) -> Recent:
    """The last ``count = w`` tokens at every place, the token itself first; pads are skipped.

    ``valid`` is false on pads, or numbers the sequences that share a row, 0 on pads: none sees
    another. ``before`` are the tokens in front of the rows, as `Recent.before` has them. On pads
    the result is some ids, meaningless.
    """
    (rows, length), is_token = tokens.shape, valid != 0
    own = valid.astype(jnp.int32)
    if before is None:
        before = jnp.full((rows, count - 1), NONE, jnp.int32)
    # Tokens without the pads among them, behind those before the row.
    number = jnp.cumsum(is_token, axis=1, dtype=jnp.int32)
    end = length + count - 1
    place = jnp.where(is_token, number + count - 2, end)
    row = jnp.arange(rows)[:, None]
    start = jnp.pad(before, ((0, 0), (0, length)), constant_values=NONE)
    dense = start.at[row, place].set(tokens.astype(jnp.int32), mode="drop")
    sequence = jnp.ones((rows, end), jnp.int32).at[row, place].set(own, mode="drop")
    found = []
    for back in range(count):
        at = number + count - 2 - back
        same = jnp.take_along_axis(sequence, jnp.maximum(at, 0), axis=1) == own
        token = jnp.take_along_axis(dense, jnp.maximum(at, 0), axis=1)
        found.append(jnp.where(same & (at >= 0), token, NONE))
    last = number[:, -1:] + jnp.arange(count - 1)[None]
    return Recent(jnp.stack(found, axis=2), jnp.take_along_axis(dense, last, axis=1))


def ngram_slots(
    recent: Int[Array, "*lead w"], heads: int, table_slots: int
) -> Int[Array, "*lead h k"]:
    """The slot of every head ``h`` and order ``n = 2 … w``, int32 in ``[0, N)``; ``k = w - 1``.

    With ``r = h·k`` and ``M = ⌊N / r⌋``, head and order number ``j`` reads slot
    ``j·M + f(⊕ᵢ (xᵢ + 1)·mⱼᵢ) mod M``, where ``xᵢ`` are the last ``n`` ids (-1 where there is
    none), ``mⱼᵢ`` odd constants, ``⊕`` is exclusive or, all in 32 bits without sign, and ``f`` is
    `smf_jax.hashing.finalized`: the multiplicative-xor hash of 2601.07372, equation 3, with a
    finalizer in place of prime sizes.
    """
    (*lead, longest), orders = recent.shape, recent.shape[-1] - 1
    share = table_slots // (heads * orders)
    ids = (recent.reshape(-1, longest) + 1).astype(jnp.uint32)
    constants, slots = multipliers(heads, orders), []
    for order in range(2, longest + 1):
        of_order = constants[:, order - 2]
        products = [ids[:, back, None] * of_order[None, :, back] for back in range(order)]
        slots.append(finalized(reduce(jnp.bitwise_xor, products)) % jnp.uint32(share))
    number = jnp.arange(heads * orders, dtype=jnp.int32).reshape(1, heads, orders)
    found = jnp.stack(slots, axis=-1).astype(jnp.int32) + number * share
    return found.reshape(*lead, heads, orders)


def multipliers(heads: int, orders: int) -> UInt[Array, "h k w"]:
    """Odd constants: the finalized multiples of `GOLDEN`, made odd; ``w = k + 1``."""
    count = heads * orders * (orders + 1)
    multiples = jnp.arange(1, count + 1, dtype=jnp.uint32) * jnp.uint32(GOLDEN)
    return (finalized(multiples) | jnp.uint32(1)).reshape(heads, orders, orders + 1)
