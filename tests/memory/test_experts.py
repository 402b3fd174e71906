"""Experts of one hidden unit: the efficient form against the plain one, gradients included."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.memory.experts import expert_weights, products
from smf_jax.memory.reading import read

TOKENS, READS, SLOTS, WIDTH, VALUES = 7, 6, 11, 5, 4
RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


# Few slots, so that a token reads one of them twice.
SLOT_IDS = jnp.asarray(RNG.integers(0, SLOTS, (TOKENS, READS)), jnp.int32)
U, V, X, W = (
    normal(SLOTS, WIDTH),
    normal(SLOTS, VALUES),
    normal(TOKENS, WIDTH),
    normal(TOKENS, READS),
)
COTANGENT = normal(TOKENS, VALUES)


def efficient(u, v, weights, x):
    return read(v, SLOT_IDS, expert_weights(u, SLOT_IDS, weights, x))


def plain(u, v, weights, x):
    """``Σ_j w_j · gelu(u_j·x) · v_j`` with all gathered rows at once."""
    hidden = jax.scipy.special.erf(jnp.einsum("td,trd->tr", x, u[SLOT_IDS]) / np.sqrt(2))
    inner = jnp.einsum("td,trd->tr", x, u[SLOT_IDS]) * (1 + hidden) / 2
    return jnp.einsum("tr,trv->tv", weights * inner, v[SLOT_IDS])


def test_the_memory_of_experts_is_the_plain_sum():
    np.testing.assert_allclose(efficient(U, V, W, X), plain(U, V, W, X), atol=2e-6)


def test_all_gradients_are_those_of_the_plain_sum():
    def gradients(form):
        total = lambda *given: jnp.sum(form(*given) * COTANGENT)  # noqa: E731
        return jax.jit(jax.grad(total, argnums=(0, 1, 2, 3)))(U, V, W, X)

    for ours, truth in zip(gradients(efficient), gradients(plain), strict=True):
        assert np.abs(truth).max() > 0.1
        np.testing.assert_allclose(ours, truth, atol=2e-6 * np.abs(truth).max())


def test_rows_that_no_token_asks_get_no_gradient():
    slots = jnp.where(SLOT_IDS == 3, 4, SLOT_IDS)
    of_inputs = jax.grad(lambda u: jnp.sum(expert_weights(u, slots, W, X)))(U)
    assert not np.asarray(of_inputs)[3].any() and np.asarray(of_inputs)[4].any()


def shapes(argnums):
    """Shapes of all that is computed for a gradient, loops included."""

    def of(jaxpr):
        for equation in jaxpr.eqns:
            yield from (variable.aval.shape for variable in equation.outvars)
            for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from of(inner)

    total = lambda u, x: jnp.sum(products(u, SLOT_IDS, x) ** 2)  # noqa: E731
    return set(of(jax.make_jaxpr(jax.grad(total, argnums))(U, X).jaxpr))


def test_the_table_is_differentiated_only_where_it_is_asked_for():
    assert (SLOTS, WIDTH) in shapes((0, 1))
    assert (SLOTS, WIDTH) not in shapes((1,))


def test_products_are_float32_at_least_and_weights_keep_their_type():
    narrow = [array.astype(jnp.bfloat16) for array in (U, W, X)]
    assert products(narrow[0], SLOT_IDS, narrow[2]).dtype == jnp.float32
    counts = expert_weights(narrow[0], SLOT_IDS, narrow[1], narrow[2])
    assert counts.dtype == jnp.bfloat16
    wide = [array.astype(jnp.float32) for array in narrow]
    truth = expert_weights(wide[0], SLOT_IDS, wide[1], wide[2])
    np.testing.assert_allclose(counts.astype(jnp.float32), truth, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("tokens", [1, TOKENS])
def test_products_are_scalar_products(tokens):
    slots, x = SLOT_IDS[:tokens], X[:tokens]
    truth = np.einsum("trd,td->tr", np.asarray(U, np.float64)[np.asarray(slots)], x)
    np.testing.assert_allclose(products(U, slots, x), truth, atol=2e-6)
