"""Four-bit rounding of a matrix that minds what it is multiplied with (GPTQ, 2210.17323).

`quantised` takes for every number the nearest that its codes can express. Of ``x Wᵀ`` that is not
the nearest: inputs go together, and what one number of a row is off by, the numbers after it can
make good. With the second moments ``H = E[x xᵀ]`` of the inputs on some text a row's squared error
is ``(w - q) H (w - q)ᵀ``, and column after column is rounded, each error spread over those to come
(algorithm 1 there, with ``U`` the upper Cholesky factor of ``H⁻¹``)::

  error = (W[:, j] - Q[:, j]) / U[j, j]          W[:, j+1:] -= error U[j, j+1:]

A scale is that of some, smaller and smaller, by which a block's own error comes out least, each
column weighted by ``1 / U[j, j]²``, what it costs once all later columns have made good what they
can.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from jaxtyping import Float

from smf_jax.models import quantised
from smf_jax.models.quantised import BLOCK, LEVELS, STEPS

FourBit = Literal["nf4", "int4"]
# Share of the mean of H's diagonal that is added to it, so that it can be inverted (section 3.3).
DAMPING = 0.01
# Of the largest magnitude of a block, or of what it spans: scales to choose from, the plain first.
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)

Rows = Float[np.ndarray, "rows columns"]


def round_matrix(
    precision: FourBit, matrix: Rows, moments: Float[np.ndarray, "columns columns"]
) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales, as `quantised.quantise` has them, of a matrix, an output to each row.

    They are chosen for inputs of these second moments, up to a factor. A number that is not finite
    is a ValueError.
    """
    if not (np.isfinite(matrix).all() and np.isfinite(moments).all()):
        raise ValueError("it, or what it was multiplied with, holds numbers that are not finite")
    rest, factor = matrix.astype(np.float32), _factor(moments)
    rows, columns = rest.shape
    size = BLOCK[precision]
    kind = {"nf4": _NormalFloat, "int4": _Steps}[precision]
    codes = np.zeros((rows, -(-columns // size) * size), np.uint8)
    scales = []
    for first in range(0, columns, size):
        own = slice(first, min(columns, first + size))
        after = slice(own.stop, columns)
        block, corner = rest[:, own], factor[own, own]
        scale = _best(kind, block, np.diag(corner) ** -2)
        errors = np.empty_like(block)
        for j in range(block.shape[1]):
            codes[:, first + j] = code = kind.nearest(block[:, j : j + 1], scale)[:, 0]
            off = block[:, j] - kind.numbers(code[:, None], scale)[:, 0]
            errors[:, j] = off / corner[j, j]
            block[:, j + 1 :] -= errors[:, j : j + 1] * corner[j, j + 1 :]
        rest[:, after] -= errors @ factor[own, after]
        scales.append(scale)
    held = np.stack(scales, axis=1)
    held = held[..., 0] if held.shape[-1] == 1 else held
    return quantised.pairs(codes.reshape(rows, -1, size)), held


def _factor(moments: np.ndarray) -> np.ndarray:
    """The upper Cholesky factor of the inverse of the damped moments."""
    damped = moments.astype(np.float64) + _damping(moments) * np.eye(len(moments))
    # H = R Rᵀ with R upper gives H⁻¹ = R⁻ᵀ R⁻¹: reversed, the usual lower factor is such an R.
    reversed_factor = np.linalg.cholesky(damped[::-1, ::-1])
    upper = np.linalg.inv(reversed_factor[::-1, ::-1])
    return upper.astype(np.float32)


def _damping(moments: np.ndarray) -> float:
    """What is added to the diagonal; where nothing ever came in, 1."""
    mean = float(np.mean(np.diag(moments), dtype=np.float64))
    return DAMPING * mean if mean > 0 else 1.0


class _NormalFloat:
    """NF4 by its largest magnitude ``(rows, 1)``."""

    @staticmethod
    def scales(block: np.ndarray) -> Iterator[np.ndarray]:
        largest = np.abs(block).max(axis=1, keepdims=True)
        return (largest * np.float32(share) for share in _SHARES)

    @staticmethod
    def nearest(numbers: np.ndarray, scales: np.ndarray) -> np.ndarray:
        return quantised.nf4_codes(numbers, scales)

    @staticmethod
    def numbers(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        return LEVELS[codes] * scales


class _Steps:
    """int4 by its step and its least number, ``(rows, 2)`` in half precision."""

    @staticmethod
    def scales(block: np.ndarray) -> Iterator[np.ndarray]:
        (plain,) = np.moveaxis(quantised.int4_scales(block), 1, 0)
        span = STEPS * plain[:, :1].astype(np.float32)
        for share in _SHARES:
            moved = np.concatenate([(share - 1) / STEPS * span, (1 - share) / 2 * span], axis=1)
            yield (plain.astype(np.float32) + moved).astype(np.float16)

    @staticmethod
    def nearest(numbers: np.ndarray, scales: np.ndarray) -> np.ndarray:
        return quantised.int4_codes(numbers, scales)

    @staticmethod
    def numbers(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        step, least = scales[:, :1].astype(np.float32), scales[:, 1:].astype(np.float32)
        return least + codes.astype(np.float32) * step


def _best(kind: type[_NormalFloat | _Steps], block: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """For every row the scale with the least weighted error, the first of equal ones."""
    best, least = None, None
    for scales in kind.scales(block):
        found = kind.numbers(kind.nearest(block, scales).astype(np.uint8), scales)
        error = np.square(found - block) @ weights
        if best is None or least is None:
            best, least = scales, error
            continue
        better = error < least
        best = np.where(better[:, None], scales, best)
        least = np.where(better, error, least)
    assert best is not None
    return best
