"""Rounding that minds its inputs, against the elimination that it is a faster form of."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.models.quantised import BLOCK, dequantise, quantise
from smf_jax.models.rounding import DAMPING, FourBit, round_matrix

KINDS: tuple[FourBit, ...] = ("nf4", "int4")


def drawn(rows: int = 6, columns: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """A matrix, one row of zeros, and the moments of inputs that go together."""
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((rows, columns)).astype(np.float32)
    matrix[3] = 0
    mixed = rng.standard_normal((40, columns)) + 0.3 * rng.standard_normal((400, 40, 1))
    inputs = mixed.sum(axis=1) + rng.standard_normal((400, columns))
    inputs *= np.linspace(0.1, 2, columns)
    return matrix, (inputs.T @ inputs).astype(np.float32)


def error(matrix: np.ndarray, numbers: np.ndarray, moments: np.ndarray) -> float:
    off = (numbers - matrix).astype(np.float64)
    return float(np.einsum("oi,ij,oj->", off, moments.astype(np.float64), off))


def expressed(codes: np.ndarray, scales: np.ndarray, columns: int) -> np.ndarray:
    return np.asarray(dequantise(jnp.asarray(codes), jnp.asarray(scales), columns))


def plain(kind: FourBit, matrix: np.ndarray) -> np.ndarray:
    return expressed(*quantise(kind, matrix.shape, lambda a, b: matrix[a:b]), matrix.shape[1])


def rounded(kind: FourBit, matrix: np.ndarray, moments: np.ndarray) -> np.ndarray:
    return expressed(*round_matrix(kind, matrix, moments), matrix.shape[1])


@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_scales_are_held_as_those_of_plain_rounding(kind):
    matrix, moments = drawn()
    found = round_matrix(kind, matrix, moments)
    usual = quantise(kind, matrix.shape, lambda a, b: matrix[a:b])
    assert [(a.shape, a.dtype) for a in found] == [(a.shape, a.dtype) for a in usual]
    assert not expressed(*found, matrix.shape[1])[3].any(), "zeros stay zeros"


@pytest.mark.parametrize("kind", KINDS)
def test_each_column_is_the_nearest_after_the_elimination_of_those_before(kind):
    """Optimal brain quantisation (2208.11580, equations 2 and 3), in float64 with whole inverses.

    The scales are taken as they were chosen; all else is computed anew.
    """
    matrix, moments = drawn()
    codes, scales = round_matrix(kind, matrix, moments)
    size, columns = BLOCK[kind], matrix.shape[1]
    found = expressed(codes, scales, columns)
    rest = matrix.astype(np.float64)
    damped = moments + DAMPING * np.mean(np.diag(moments)) * np.eye(columns)
    inverse = np.linalg.inv(damped.astype(np.float64))
    for j in range(columns):
        scale = scales[:, j // size].astype(np.float64)
        shown = np.arange(16, dtype=np.float64)
        if kind == "int4":
            choices = scale[:, 1:] + scale[:, :1] * shown
        else:
            levels = np.asarray(dequantise(*_all_codes(), 16), np.float64)
            choices = scale[:, None] * levels
        place = np.abs(choices - rest[:, j : j + 1]).argmin(axis=1)
        chosen = np.take_along_axis(choices, place[:, None], axis=1)[:, 0]
        np.testing.assert_allclose(found[:, j], chosen, rtol=1e-5, atol=1e-6)
        rest -= np.outer((rest[:, j] - chosen) / inverse[j, j], inverse[j])
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
        inverse[j, j] = 1  # the column is gone: nothing is spread from it or to it again


def _all_codes() -> tuple[jnp.ndarray, jnp.ndarray]:
    """A row of every level of NF4, of scale 1."""
    low, high = np.arange(32, dtype=np.uint8) % 16, np.zeros(32, np.uint8)
    return jnp.asarray((low | high << 4)[None, None]), jnp.ones((1, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_out_is_nearer_than_that_of_plain_rounding(kind):
    matrix, moments = drawn()
    found = rounded(kind, matrix, moments)
    assert error(matrix, found, moments) < 0.5 * error(matrix, plain(kind, matrix), moments)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_that_do_not_go_together_leave_every_number_by_itself(kind):
    matrix, _ = drawn()
    found = rounded(kind, matrix, np.eye(matrix.shape[1], dtype=np.float32))
    off = np.abs(found - matrix)
    nearer = np.abs(plain(kind, matrix) - matrix)
    assert np.square(off).sum() <= np.square(nearer).sum(), (
        "a smaller scale only where it is better"
    )
    size = BLOCK[kind]
    for block in range(0, matrix.shape[1], size):
        own = found[:, block : block + size]
        order = matrix[:, block : block + size].argsort(axis=1)
        assert (np.diff(np.take_along_axis(own, order, axis=1), axis=1) >= -1e-7).all()


def test_numbers_of_a_four_bit_file_stay_as_they_are():
    _, moments = drawn(columns=96)
    rng = np.random.default_rng(1)
    steps = rng.uniform(0.01, 0.1, (6, 3, 1)).astype(np.float16).astype(np.float32)
    least = rng.uniform(-1, 0, (6, 3, 1)).astype(np.float16).astype(np.float32)
    codes = rng.integers(0, 16, (6, 3, 32))
    codes[:, :, :2] = 0, 15
    matrix = (least + codes * steps).reshape(6, 96).astype(np.float32)
    found = rounded("int4", matrix, moments)
    np.testing.assert_allclose(found, matrix, rtol=2e-3, atol=1e-5)
    assert error(matrix, found, moments) <= error(matrix, plain("int4", matrix), moments)


def test_inputs_that_never_come_are_rounded_all_the_same():
    matrix, moments = drawn()
    moments[:, 7] = moments[7] = 0
    assert np.isfinite(rounded("nf4", matrix, moments)).all()
    nothing = np.zeros_like(moments)
    found = rounded("nf4", matrix, nothing)
    alike = rounded("nf4", matrix, np.eye(len(nothing), dtype=np.float32))
    np.testing.assert_array_equal(found, alike)


@pytest.mark.parametrize("where", ["matrix", "moments"])
def test_what_is_not_finite_is_refused(where):
    matrix, moments = drawn()
    {"matrix": matrix, "moments": moments}[where][0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        round_matrix("nf4", matrix, moments)
