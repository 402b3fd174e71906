"""Query BatchNorm: statistics without pads, running ones that follow, and who uses which."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.memory.norms import (
    EPSILON,
    STATISTICS,
    BatchNorm,
    Moments,
    batch_moments,
    running_moments,
)

TOKENS, WIDTH = 12, 5
RNG = np.random.default_rng(0)
X = RNG.normal(3, 2, (TOKENS, WIDTH)).astype(np.float32)
VALID = np.arange(TOKENS) % 4 != 1
LEAVES = {
    "scale": jnp.asarray(RNG.standard_normal(WIDTH), jnp.float32),
    "bias": jnp.asarray(RNG.standard_normal(WIDTH), jnp.float32),
    "mean": jnp.asarray(RNG.standard_normal(WIDTH), jnp.float32),
    "variance": jnp.asarray(RNG.random(WIDTH) + 1, jnp.float32),
}


def apply(x, valid, mutable):
    return jax.jit(lambda x: BatchNorm().apply({"params": LEAVES}, x, valid, mutable=mutable))(x)


def by_formula(x, mean, variance):
    mean, variance, scale, bias = (
        np.asarray(a, np.float64) for a in (mean, variance, LEAVES["scale"], LEAVES["bias"])
    )
    return (np.asarray(x, np.float64) - mean) / np.sqrt(variance + EPSILON) * scale + bias


def test_training_normalises_by_the_tokens_that_are_no_pads():
    y, sown = apply(X, VALID, [STATISTICS])
    tokens = X[VALID].astype(np.float64)
    truth = by_formula(X, tokens.mean(0), tokens.var(0))
    np.testing.assert_allclose(y, truth, atol=1e-5)
    moments = sown[STATISTICS]["moments"]
    np.testing.assert_allclose(moments.mean, tokens.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moments.variance, tokens.var(0), rtol=1e-5)
    assert moments.tokens == VALID.sum()


@pytest.mark.parametrize("pad", [0.0, 1e9, np.inf, np.nan])
def test_what_stands_on_pads_has_no_say(pad):
    y, sown = apply(X, VALID, [STATISTICS])
    other, of_other = apply(np.where(VALID[:, None], X, pad), VALID, [STATISTICS])
    np.testing.assert_array_equal(y[VALID], other[VALID])
    jax.tree.map(np.testing.assert_array_equal, sown, of_other)


def test_all_else_normalises_by_the_running_statistics():
    y, sown = apply(X, VALID, ["reads"])
    np.testing.assert_allclose(y, by_formula(X, LEAVES["mean"], LEAVES["variance"]), atol=1e-5)
    assert not sown
    assert not np.allclose(y, apply(X, VALID, [STATISTICS])[0], atol=0.1)


def test_without_a_mask_every_token_counts():
    y, _ = apply(X, None, [STATISTICS])
    np.testing.assert_array_equal(y, apply(X, np.ones(TOKENS, bool), [STATISTICS])[0])


def test_running_statistics_follow_as_in_pytorch():
    tokens = X[VALID].astype(np.float64)
    mean, variance = running_moments(
        LEAVES["mean"], LEAVES["variance"], batch_moments(jnp.asarray(X), jnp.asarray(VALID))
    )
    np.testing.assert_allclose(mean, 0.9 * LEAVES["mean"] + 0.1 * tokens.mean(0), rtol=1e-5)
    unbiased = tokens.var(0, ddof=1)
    np.testing.assert_allclose(variance, 0.9 * LEAVES["variance"] + 0.1 * unbiased, rtol=1e-5)


def test_running_statistics_converge_to_those_of_the_text():
    mean, variance = jnp.zeros(WIDTH), jnp.ones(WIDTH)
    rng = np.random.default_rng(1)
    step = jax.jit(lambda m, v, x: running_moments(m, v, batch_moments(x, jnp.ones(400, bool))))
    for _ in range(120):
        mean, variance = step(mean, variance, rng.normal(3, 2, (400, WIDTH)).astype(np.float32))
    np.testing.assert_allclose(mean, 3, atol=0.1)
    np.testing.assert_allclose(variance, 4, rtol=0.1)


@pytest.mark.parametrize("tokens", [0, 1])
def test_a_batch_of_less_than_two_tokens_changes_nothing(tokens):
    batch = Moments(jnp.full(WIDTH, 7.0), jnp.zeros(WIDTH), jnp.float32(tokens))
    after = running_moments(LEAVES["mean"], LEAVES["variance"], batch)
    for new, old in zip(after, (LEAVES["mean"], LEAVES["variance"]), strict=True):
        np.testing.assert_array_equal(new, old)
    empty = batch_moments(jnp.asarray(X), jnp.zeros(TOKENS, bool))
    assert all(np.isfinite(np.asarray(part)).all() for part in empty)
