"""The weighted loss against its formula in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.losses import all_finite, at_scored, count_scored, token_losses, weighted_loss


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


def test_targets_of_weight_are_found_in_order_and_the_others_left_out():
    weights = np.zeros((3, 20), np.float32)
    weights[0, [2, 3, 19]], weights[1, 4:13] = (0.1, 1, 0.5), 1
    assert count_scored(weights) == 16 and count_scored(weights[:1]) == 8
    assert count_scored(np.ones((2, 5))) == 5 and count_scored(np.zeros((2, 30))) == 8
    targets = np.arange(60).reshape(3, 20)
    (found, kept), places = jax.jit(at_scored, static_argnums=2)((targets, weights), weights, 16)
    assert places is not None and places.shape == found.shape == kept.shape == (3, 16)
    np.testing.assert_array_equal(np.asarray(places)[0, :3], [2, 3, 19])
    for row in range(3):
        has_weight = np.asarray(kept)[row] > 0
        np.testing.assert_array_equal(
            np.asarray(found)[row][has_weight], targets[row][weights[row] > 0]
        )
    np.testing.assert_allclose(np.sum(kept, axis=1), weights.sum(axis=1))


@pytest.mark.parametrize("count", [None, 5, 9])
def test_nothing_is_left_out_where_all_may_have_weight(count):
    weights = jnp.ones((2, 5))
    batch, places = at_scored(weights, weights, count)
    assert batch is weights and places is None


def test_the_loss_at_the_targets_of_weight_is_that_of_all():
    logits, targets, weights = case()
    weights[:, [0, 3]] = 0
    logits, targets, weights = map(jnp.asarray, (logits, targets, weights))
    (asked, kept), places = at_scored((targets, weights), weights, 3)
    assert places is not None
    some = jnp.take_along_axis(logits, jnp.expand_dims(places, 2), axis=1)
    np.testing.assert_allclose(
        weighted_loss(some, asked, kept), weighted_loss(logits, targets, weights), rtol=1e-6
    )
