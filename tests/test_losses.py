"""The weighted loss against its formula in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.losses import all_finite, token_losses, weighted_loss


def case():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((3, 5, 7)).astype(np.float32) * 3
    targets = rng.integers(0, 7, (3, 5)).astype(np.int32)
    weights = rng.choice([0.0, 0.1, 1.0], (3, 5)).astype(np.float32)
    return logits, targets, weights


def by_formula(logits, targets, weights):
    logits = logits.astype(np.float64)
    nll = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, targets[..., None], 2)[..., 0]
    return nll, (nll * weights).sum() / weights.sum()


def test_the_loss_is_the_weighted_mean_of_the_tokens():
    nll, loss = by_formula(*case())
    logits, targets, weights = map(jnp.asarray, case())
    np.testing.assert_allclose(token_losses(logits, targets), nll, rtol=1e-6, atol=1e-6)
    assert weighted_loss(logits, targets, weights) == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("content", [np.inf, -np.inf, np.nan, 1e30])
def test_what_a_pad_holds_is_no_part_of_the_loss(content):
    logits, targets, weights = case()
    spoilt = np.where(weights[..., None] == 0, content, logits).astype(np.float32)
    assert (weights == 0).any()
    spoilt, logits, targets, weights = map(jnp.asarray, (spoilt, logits, targets, weights))
    np.testing.assert_array_equal(
        weighted_loss(spoilt, targets, weights), weighted_loss(logits, targets, weights)
    )


def test_a_batch_without_weights_has_no_loss_and_no_gradient():
    logits, targets, weights = case()
    value, gradient = jax.jit(jax.value_and_grad(weighted_loss))(logits, targets, weights * 0)
    assert value == 0 and not np.asarray(gradient).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_number_decides_whether_all_are_finite(bad):
    tree = {"a": jnp.ones((2, 3)), "b": (jnp.zeros(4), jnp.ones((), jnp.int32))}
    assert all_finite(tree) and all_finite({})
    assert not all_finite({**tree, "b": (jnp.zeros(4).at[2].set(bad),)})
