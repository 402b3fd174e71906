"""The three stages of a recipe, each against its formula, and the optimizers by name."""

from __future__ import annotations

import math
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from smf_jax.sparse.optimizers import OPTIMIZERS, OptimizerConfig


def rates(rule, steps, learning_rate=2.0):
    rate = jax.jit(rule.rate)
    return [float(rate(learning_rate, jnp.asarray(step, jnp.int32))) for step in range(steps)]


def test_a_constant_rate():
    assert rates(OptimizerConfig(), 3) == [2.0, 2.0, 2.0]


def test_warm_up_is_linear_and_its_first_step_moves():
    assert rates(OptimizerConfig(warmup_steps=4), 6) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_cosine_begins_at_the_whole_rate_and_ends_at_zero(warmup):
    steps = 10
    found = rates(OptimizerConfig(schedule="cosine", warmup_steps=warmup, schedule_steps=steps), 14)
    expected = [2.0 * (step + 1) / warmup for step in range(warmup)]
    expected += [1 + math.cos(math.pi * i / (steps - warmup)) for i in range(steps - warmup)]
    np.testing.assert_allclose(found, expected + [0.0] * 4, atol=1e-6)
    assert min(found[:steps]) > 0, "no step of the schedule is wasted"


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_rate_given_as_an_integer_is_scheduled_alike(schedule):
    rule = OptimizerConfig(schedule=schedule, warmup_steps=2, schedule_steps=6)
    assert rates(rule, 8, learning_rate=3) == rates(rule, 8, learning_rate=3.0)


def test_the_clip_sees_every_leaf():
    gradients = {"pool": jnp.asarray([[3.0, 0.0]]), "other": (jnp.asarray([[4.0]]),)}
    clipped = OptimizerConfig(clip=1.0).clipped(gradients)
    np.testing.assert_allclose(clipped["pool"], [[0.6, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(clipped["other"][0], [[0.8]], rtol=1e-6)


@pytest.mark.parametrize("clip", [None, 5.0, 100.0])
def test_a_norm_within_the_clip_changes_no_bit(clip):
    gradients = {"pool": jnp.asarray([[3.0, -0.0]]), "other": jnp.asarray([[4.0]])}
    clipped = OptimizerConfig(clip=clip).clipped(gradients)
    for path, leaf in gradients.items():
        np.testing.assert_array_equal(
            np.asarray(clipped[path]).view(np.int32), np.asarray(leaf).view(np.int32)
        )


def test_a_zero_gradient_is_clipped_to_zero():
    assert OptimizerConfig(clip=1.0).clipped(jnp.zeros(3)).tolist() == [0.0] * 3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_name_is_an_optax_optimizer_at_a_rate_of_one(name):
    config = OptimizerConfig(name)
    optimizer, direction = config.transformation(), OPTIMIZERS[name](config)
    rows, gradients = jnp.linspace(-1, 2, 6), jnp.linspace(3, -1, 6)
    updates, _ = optimizer.update(gradients, optimizer.init(rows), rows)
    against, _ = direction.update(gradients, direction.init(rows), rows)
    up, down = cast(jax.Array, updates), cast(jax.Array, against)
    np.testing.assert_array_equal(rows + 0.3 * up, rows - 0.3 * down)
    assert config.transformation() is OptimizerConfig(name, clip=None).transformation()


def test_an_optimizer_of_ones_own_is_taken_as_it_is():
    own = optax.adam(1e-3)
    assert OptimizerConfig(own, clip=1.0).transformation() is own


@pytest.mark.parametrize(
    ("choices", "complaint"),
    [
        (
            {"optimizer": "sophia"},
            "optimizer='sophia' is unknown; choose from sgd, momentum, adam, ",
        ),
        ({"schedule": "linear"}, "schedule='linear' is unknown; choose from"),
        (
            {"schedule": "cosine", "warmup_steps": 5, "schedule_steps": 5},
            "schedule_steps=5 leaves no step after warmup_steps=5; raise schedule_steps",
        ),
        ({"schedule": "cosine"}, "schedule_steps=0 leaves no step"),
    ],
)
def test_impossible_rules_are_refused(choices, complaint):
    with pytest.raises(ValueError, match=complaint):
        OptimizerConfig(**choices)
