"""Equality to the bit, of arrays on the host."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool


def rows_differ(a: np.ndarray, b: np.ndarray) -> Bool[np.ndarray, " N"]:
    """Which rows of two tables of one shape and dtype differ in a bit; NaN equals NaN, 0 not -0."""
    word = f"u{a.dtype.itemsize}" if a.dtype.itemsize in (1, 2, 4, 8) else "u1"
    first, second = (np.ascontiguousarray(rows).view(word) for rows in (a, b))
    return (first != second).any(axis=1)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of one shape and dtype are equal to the bit."""
    return not rows_differ(a.reshape(1, -1), b.reshape(1, -1)).any()
