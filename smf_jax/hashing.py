"""A counter-based hash of 32 bits: the finalizer of MurmurHash3, which has every bit move every."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, UInt

GOLDEN = 0x9E3779B9  # 2³² over the golden ratio: neighbours are far apart once multiplied by it


def finalized(bits: UInt[Array, "..."]) -> UInt[Array, "..."]:
    """One to one on uint32; 0 stays 0."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)
