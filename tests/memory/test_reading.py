"""The weighted read and its gradients against np.add.at, and what they never create."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.memory import reading
from smf_jax.memory.reading import read, table_gradient
from tests import oracles

TOKENS, READS, SLOTS, WIDTH = 11, 6, 30, 5


def case(seed=0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((SLOTS, WIDTH))
    slots = rng.integers(0, SLOTS - 5, (TOKENS, READS)).astype(np.int32)
    slots[0] = slots[0, 0]  # one slot chosen by every head of a token
    weights = rng.standard_normal((TOKENS, READS))
    cotangent = rng.standard_normal((TOKENS, WIDTH))
    return values, slots, weights, cotangent


def narrow(array, dtype=np.float32):
    return dtype if array.dtype == np.float64 else array.dtype


def pullback(values, slots, weights, cotangent):
    y, backward = jax.vjp(lambda values, weights: read(values, slots, weights), values, weights)
    return y, *backward(cotangent)


def check(dtype, tolerance):
    arrays = cast(tuple[Any, ...], case())
    values, slots, weights, cotangent = (array.astype(narrow(array, dtype)) for array in arrays)
    y, of_values, of_weights = jax.jit(pullback)(values, slots, weights, cotangent)
    assert y.dtype == of_values.dtype == of_weights.dtype == dtype
    close: dict[str, Any] = dict(rtol=0, atol=tolerance * 10)
    np.testing.assert_allclose(y, oracles.weighted_read(values, slots, weights), **close)
    truth = oracles.table_gradient(cotangent, slots, weights, SLOTS)
    np.testing.assert_allclose(of_values, truth, **close)
    untouched = np.setdiff1d(np.arange(SLOTS), slots)
    assert len(untouched) >= 5 and not np.asarray(of_values)[untouched].any()
    rows = values.astype(np.float64)[slots]
    np.testing.assert_allclose(of_weights, np.einsum("trv,tv->tr", rows, cotangent), **close)


def test_float32_read_and_gradients():
    check(np.float32, 5e-7)


def test_float64_read_and_gradients():
    with jax.enable_x64(True):
        check(np.float64, 1e-15)


def test_one_read_of_one_token():
    values, slots, weights, cotangent = case()
    one = slots[:1, :1], weights[:1, :1], cotangent[:1]
    y, of_values, _ = jax.jit(pullback)(values, *one)
    np.testing.assert_allclose(y[0], weights[0, 0] * values[slots[0, 0]], rtol=1e-6)
    assert np.flatnonzero(np.asarray(of_values).any(axis=1)).tolist() == [slots[0, 0]]


def test_a_bfloat16_read_is_summed_in_float32():
    values, slots, weights, _ = case()
    values, weights = (jnp.asarray(array, jnp.bfloat16) for array in (values, weights))
    y = jax.jit(read)(values, slots, weights)
    exact = oracles.weighted_read(np.asarray(values), slots, np.asarray(weights))
    assert y.dtype == jnp.bfloat16
    # One rounding to bfloat16, at the end: within half a unit in the last place.
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("rows_of_a_piece", [1, 4, TOKENS, 100])
def test_the_forms_of_accelerators_read_the_same(monkeypatch, rows_of_a_piece, fused):
    values, slots, weights, cotangent = (jnp.asarray(a, narrow(a)) for a in case())
    name = "FUSED_PIECE_BYTES" if fused else "PIECE_BYTES"
    monkeypatch.setattr(reading, name, rows_of_a_piece * READS * WIDTH * 4)
    y = reading._read_by_tokens(values, slots, weights, fused)
    truth = oracles.weighted_read(np.asarray(values), np.asarray(slots), np.asarray(weights))
    np.testing.assert_allclose(y, truth, rtol=0, atol=5e-6)
    of_weights = reading._products_by_tokens(values, slots, cotangent, fused)
    truth = np.einsum("trv,tv->tr", np.asarray(values, np.float64)[np.asarray(slots)], cotangent)
    np.testing.assert_allclose(of_weights, truth, rtol=0, atol=5e-6)


def test_the_gradient_of_bfloat16_reads_is_summed_in_float32():
    _, slots, weights, cotangent = case()
    cotangent, weights = (jnp.asarray(array, jnp.bfloat16) for array in (cotangent, weights))
    gradient = table_gradient(cotangent, jnp.asarray(slots), weights, SLOTS)
    truth = oracles.table_gradient(np.asarray(cotangent), slots, np.asarray(weights), SLOTS)
    assert gradient.shape == (SLOTS, WIDTH) and gradient.dtype == jnp.float32
    np.testing.assert_allclose(gradient, truth, rtol=0, atol=5e-6)


def arrays_made(jaxpr):
    """Shapes of everything that a jaxpr computes, its branches and loops included."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from arrays_made(inner)


def test_a_table_that_is_not_differentiated_gets_no_gradient():
    values, slots, weights, _ = case()

    def loss(values, weights):
        return jnp.sum(read(values, jnp.asarray(slots), weights) ** 2)

    def shapes(argnums):
        return set(arrays_made(jax.make_jaxpr(jax.grad(loss, argnums))(values, weights).jaxpr))

    assert (SLOTS, WIDTH) in shapes((0, 1))
    assert (SLOTS, WIDTH) not in shapes((1,))
