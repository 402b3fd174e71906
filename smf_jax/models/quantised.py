"""Frozen matrices in eight or four bits: int8 by row, NF4 (QLoRA, 2305.14314) or int4 by block.

A matrix is held by rows, an output or a token to each, as model files have them. In its place in
the parameters stand ``codes`` and ``scales``::

  int8  codes (rows, columns) int8         scales (rows,) float32
  nf4   codes (rows, blocks, 32) uint8     scales (rows, blocks) float32
  int4  codes (rows, blocks, 16) uint8     scales (rows, blocks, 2) float16: a step, and the least

A block is 64 numbers of one row, of int4 32; byte ``j`` of it has number ``j`` in its low half and
in its high half the one that is half of a block further. The last block of a row is filled up.
Numbers of int4 are ``least + code · step``, as the files have them that are called Q4_1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Int8, Num, UInt8

from smf_jax.models.config import Precision
from smf_jax.params import Params, is_memory

BLOCK = {"nf4": 64, "int4": 32}  # numbers that share a scale
_LARGEST, STEPS = 127, 15  # of int8, and of int4 from the least number on
# The levels of NF4, appendix E of 2305.14314: quantiles of a normal distribution, zero among them.
LEVELS = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)
_BETWEEN = (LEVELS[1:] + LEVELS[:-1]) / 2
_SAME = 1e-3  # share of what a block spans, below which two of its numbers are one
_LEAST_STEP = np.float16(2.0**-24)  # above zero, in half precision
# Numbers that are float32 at a time, here and in a step: 32 MiB.
_AT_ONCE = 2**23

Codes = Int8[Array, "rows _columns"] | UInt8[Array, "rows blocks half"]
Scales = Float[Array, " rows"] | Float[Array, "rows blocks"] | Float[Array, "rows blocks 2"]


def precision_at(precision: Precision, module: str) -> Precision:
    """How the matrix of a module is held: an embedding, which may be the head too, is int8.

    Of few bits a logit suffers most; QLoRA leaves both as they are.
    """
    return "int8" if module in ("embedder", "head") else precision


def code_shapes(
    precision: Precision, rows: int, columns: int
) -> tuple[tuple[int, ...], DTypeLike, tuple[int, ...], DTypeLike]:
    """Shape and dtype of a matrix's codes, and those of its scales."""
    if precision == "int8":
        return (rows, columns), jnp.int8, (rows,), jnp.float32
    blocks, half = -(-columns // BLOCK[precision]), BLOCK[precision] // 2
    if precision == "int4":
        return (rows, blocks, half), jnp.uint8, (rows, blocks, 2), jnp.float16
    return (rows, blocks, half), jnp.uint8, (rows, blocks), jnp.float32


def quantise(
    precision: Precision, shape: tuple[int, int], read: Callable[[int, int], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales of a matrix ``(rows, columns)``; ``read`` gives some of its rows at a time.

    A scale is the largest magnitude of what shares it, over 127 for int8, and each number the
    nearest that its codes can express. Of int4 the step is a fifteenth of what a block spans, or
    its own where its numbers lie on a grid of 16 already, as those of a four-bit file do: these
    stay as they are, to half precision. A number that is not finite is a ValueError.
    """
    rows, columns = shape
    codes_shape, kind, scales_shape, scales_kind = code_shapes(precision, rows, columns)
    codes, scales = np.empty(codes_shape, kind), np.empty(scales_shape, scales_kind)
    step = max(1, _AT_ONCE // columns)
    encode = {"int8": _int8, "nf4": _nf4, "int4": _int4}[precision]
    for first in range(0, rows, step):
        part = slice(first, min(rows, first + step))
        numbers = np.asarray(read(part.start, part.stop), np.float32)
        codes[part], scales[part] = encode(numbers)
    return codes, scales


def _int8(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scales = np.abs(numbers).max(axis=1) / np.float32(_LARGEST)
    return np.rint(numbers / _over(scales)[:, None]).astype(np.int8), scales


def _nf4(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    blocks = _blocks(numbers, BLOCK["nf4"], "constant")
    scales = np.abs(blocks).max(axis=2)
    return pairs(nf4_codes(blocks, _over(scales)[..., None])), scales


def nf4_codes(numbers: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The nearest levels ``(…, n)`` of numbers ``(…, n)`` with a scale ``(…, 1)``; of 0 any."""
    return np.searchsorted(_BETWEEN, numbers / np.where(scales > 0, scales, 1))


def _int4(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scales = int4_scales(numbers)
    return pairs(int4_codes(_blocks(numbers, BLOCK["int4"], "edge"), scales)), scales


def int4_codes(numbers: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The nearest steps ``(…, n)`` of numbers ``(…, n)`` with a step and a least ``(…, 2)``."""
    step, least = scales[..., :1].astype(np.float32), scales[..., 1:].astype(np.float32)
    return np.rint((numbers - least) / np.where(step > 0, step, 1)).clip(0, STEPS)


def int4_scales(numbers: np.ndarray) -> np.ndarray:
    """The step and the least number of every block of rows, ``(rows, blocks, 2)`` float16."""
    blocks = _blocks(numbers, BLOCK["int4"], "edge")
    ordered = np.sort(blocks, axis=2)
    least, span = ordered[..., 0], ordered[..., -1] - ordered[..., 0]
    _over(span)
    step = span / STEPS
    # The least distance of two numbers that differ, or a part of it, as not all codes may be there.
    gaps = np.diff(ordered, axis=2)
    closest = np.where(gaps > _SAME * span[..., None], gaps, span[..., None]).min(axis=2)
    for parts in (3, 2, 1):
        own = closest / parts
        counts = gaps / _over(own)[..., None]
        on_grid = (np.abs(counts - np.rint(counts)) < _SAME * STEPS).all(axis=2)
        step = np.where(on_grid & (span < (STEPS + 0.5) * own), own, step)
    half = np.stack([step, least], axis=2)
    if np.abs(half).max() > np.finfo(np.float16).max:
        raise ValueError("it holds numbers beyond 65,504, which int4 cannot express; choose nf4")
    half = half.astype(np.float16)
    # A least number that half precision moves by steps, as in a block far from zero, would clip
    # those below it: it is rounded downwards there, and the steps reach from it to the largest.
    is_moved = np.abs(half[..., 1] - least) > step / 2
    lower = np.where(
        half[..., 1] > least, np.nextafter(half[..., 1], np.float16(-np.inf)), half[..., 1]
    )
    half[..., 1] = np.where(is_moved, lower, half[..., 1])
    reached = (ordered[..., -1] - half[..., 1].astype(np.float32)) / STEPS
    half[..., 0] = np.where(is_moved, reached, half[..., 0])
    # What half precision cannot tell from zero would leave a block with one number.
    half[..., 0] = np.where(span > 0, np.maximum(half[..., 0], _LEAST_STEP), half[..., 0])
    return half


def _blocks(numbers: np.ndarray, size: int, filled: Literal["constant", "edge"]) -> np.ndarray:
    """``(rows, blocks, size)``, the last filled up with zeros or with the last number."""
    rows, columns = numbers.shape
    return np.pad(numbers, ((0, 0), (0, -columns % size)), filled).reshape(rows, -1, size)


def pairs(codes: np.ndarray) -> np.ndarray:
    """Codes below 16 ``(…, n)``, two a byte ``(…, n / 2)`` uint8."""
    first, second = np.split(codes.astype(np.uint8), 2, axis=-1)
    return first | second << 4


def _over(scales: np.ndarray) -> np.ndarray:
    """The scales as divisors: of zeros alone 1."""
    if not np.isfinite(scales).all():
        raise ValueError("it holds numbers that are not finite, which no scale can express")
    return np.where(scales > 0, scales, np.float32(1))


def dequantise(
    codes: Num[Array, "rows ..."], scales: Float[Array, "rows ..."], columns: int
) -> Array:
    """The float32 matrix ``(rows, columns)``."""
    if codes.dtype == jnp.int8:
        return codes.astype(jnp.float32) * scales[..., None]
    halves = jnp.concatenate([codes & 15, codes >> 4], axis=-1)
    if scales.ndim == codes.ndim:
        step, least = jnp.split(scales.astype(jnp.float32), 2, axis=-1)
        numbers = halves.astype(jnp.float32) * step + least
    else:
        levels = jnp.asarray(LEVELS).at[halves].get(mode="promise_in_bounds")
        numbers = levels * scales[..., None]
    return numbers.reshape(len(codes), -1)[:, :columns]


def product(
    x: Float[Array, "... i"], codes: Codes, scales: Scales, out: DTypeLike
) -> Float[Array, "... o"]:
    """``x Wᵀ`` of a quantised matrix, in the dtype of ``x`` with sums in ``out``.

    A few rows are float at a time, in the backward pass anew: what autodiff would keep of a model
    is all of its matrices. Of codes and scales there is no gradient.
    """
    # Or a compiler would see that codes stay the same in a loop, and make them float before it.
    x, codes, scales = jax.lax.optimization_barrier((x, codes, scales))
    flat = jnp.reshape(x, (-1, x.shape[-1]))
    y: Any = _product(flat, codes, scales, jnp.dtype(out))
    return y.reshape(*x.shape[:-1], len(codes))


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _product(x: Array, codes: Array, scales: Array, out: np.dtype) -> Array:
    """That of ``(t, i)``, ``(t, o)``."""

    def add(y: Array, first: Any, size: int) -> Array:
        part = _rows(codes, scales, first, size, x)
        found = jnp.einsum("ti,oi->to", x, part, preferred_element_type=out)
        return jax.lax.dynamic_update_slice(y, found, (0, first))

    return _by_rows(add, jnp.zeros((len(x), len(codes)), out), len(codes), x.shape[1])


def _forward(x: Array, codes: Array, scales: Array, out: np.dtype) -> tuple[Array, tuple]:
    return _product(x, codes, scales, out), (x[:0], codes, scales)


def _backward(out: np.dtype, kept: tuple, cotangent: Array) -> tuple[Array, None, None]:
    like, codes, scales = kept
    cotangent, codes, scales = jax.lax.optimization_barrier((cotangent, codes, scales))

    def add(sums: Array, first: Any, size: int) -> Array:
        part = _rows(codes, scales, first, size, like)
        own = jax.lax.dynamic_slice_in_dim(cotangent, first, size, axis=1).astype(like.dtype)
        return sums + jnp.einsum("to,oi->ti", own, part, preferred_element_type=sums.dtype)

    wide = jnp.promote_types(jnp.float32, like.dtype)
    start = jnp.zeros((len(cotangent), like.shape[1]), wide)
    return _by_rows(add, start, len(codes), like.shape[1]).astype(like.dtype), None, None


_product.defvjp(_forward, _backward)


def _rows(codes: Array, scales: Array, first: Any, size: int, like: Array) -> Array:
    """So many rows, in the dtype and of the columns of ``like``."""
    own, of_own = (jax.lax.dynamic_slice_in_dim(each, first, size) for each in (codes, scales))
    return dequantise(own, of_own, like.shape[1]).astype(like.dtype)


def _by_rows(
    add: Callable[[Array, Any, int], Array], start: Array, rows: int, columns: int
) -> Array:
    """What ``(sum so far, first row, number of rows)`` adds up to, over all rows.

    Always a loop of two rounds at least: what a round makes float is gone after it, where a
    compiler for CPUs otherwise begins with all that waits for nothing, the matrices of all layers.
    """
    rounds = min(rows, max(2, -(-rows * columns // _AT_ONCE)))
    size, rest = divmod(rows, rounds)
    found = jax.lax.fori_loop(0, rounds, lambda i, sums: add(sums, i * size, size), start)
    return add(found, rounds * size, rest) if rest else found


def is_matrix(path: str) -> bool:
    """Whether a leaf of a float model is quantised where the model is: no memory's."""
    return path.endswith(("/kernel", "/embedding")) and not is_memory(path)


def quantised_leaf(
    path: str, precision: Precision, shape: tuple[int, ...], read: Callable[[int, int], np.ndarray]
) -> dict[str, np.ndarray]:
    """The codes and scales by path that stand for the matrix ``(rows, columns)`` at ``path``.

    ``read`` is that of `quantise`; a ValueError names the path.
    """
    module = path.rpartition("/")[0]
    try:
        codes, scales = quantise(precision_at(precision, module), (shape[0], shape[1]), read)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return {f"{module}/codes": codes, f"{module}/scales": scales}


def quantise_params(precision: Precision, params: Mapping[str, Any]) -> Params:
    """The parameters by path of a model, quantised; memories, norms and biases are shared."""
    found: dict[str, Any] = {}
    for path, leaf in params.items():
        if not is_matrix(path):
            found[path] = leaf
            continue
        rows = leaf.T if path.endswith("/kernel") else leaf
        read = lambda first, end, rows=rows: np.asarray(rows[first:end])  # noqa: E731
        found |= jax.tree.map(jnp.asarray, quantised_leaf(path, precision, rows.shape, read))
    return dict(sorted(found.items()))
