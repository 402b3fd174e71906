"""An optimizer on each row alone, and the refusal of those that cannot be."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from smf_jax.sparse.each_row import check_each_row, each_row
from tests.sparse import contract


@pytest.mark.parametrize("name", contract.OPTAX)
def test_optimizers_whose_rows_stand_alone_pass(name):
    check_each_row(contract.OPTAX[name])


MIXING = {
    "a global norm": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)),
    "a far global norm": optax.chain(optax.sgd(0.1), optax.clip_by_global_norm(1e9)),
    "a norm of small updates": optax.chain(optax.adam(1e-3), optax.clip_by_global_norm(1e6)),
    "a norm behind a clip": optax.chain(optax.clip(1.0), optax.clip_by_global_norm(1e20)),
    "adaptive clipping": optax.chain(optax.adaptive_grad_clip(0.01), optax.sgd(0.1)),
    "lars": optax.lars(0.1),
    "lamb": optax.lamb(0.1),
    "factored moments": optax.scale_by_factored_rms(),
    "sm3": optax.sm3(0.1),
    "centred gradients": optax.chain(optax.centralize(), optax.sgd(0.1)),
    "noise": optax.add_noise(0.1, 0.5, key=0),
    "a guard of all rows": optax.apply_if_finite(optax.adam(0.1), 3),
    "decay of matrices only": optax.adamw(
        0.1, weight_decay=1e-6, mask=lambda p: jax.tree.map(lambda leaf: leaf.ndim > 1, p)
    ),
}


@pytest.mark.parametrize("name", MIXING)
def test_optimizers_that_mix_rows_are_refused(name):
    with pytest.raises(ValueError, match="optimizer mixes rows: .* Give max_norm= "):
        check_each_row(MIXING[name])


def test_extra_arguments_reach_every_row_and_are_asked_for():
    def update(updates, state, params=None, *, factor, **_):
        return updates * factor, state

    scaled = optax.GradientTransformationExtraArgs(
        *cast(Any, (lambda _: optax.EmptyState(), update))
    )
    with pytest.raises(ValueError, match="'factor'; give examples of the extra arguments"):
        check_each_row(scaled)
    check_each_row(scaled, {"factor": 2.0})
    moved, _ = each_row(scaled).update(jnp.ones((3, 2)), optax.EmptyState(), None, factor=3.0)
    np.testing.assert_array_equal(moved, np.full((3, 2), 3.0))
    with pytest.raises(ValueError, match="optimizer mixes rows"):
        check_each_row(optax.polyak_sgd(), {"value": 1.0})


def test_an_optimizer_is_tried_while_a_program_is_traced_unless_it_is_part_of_it():
    @jax.jit
    def inside(rate):
        check_each_row(optax.sgd(0.1))
        with pytest.raises(ValueError, match="optimizer holds a traced number; build it outside"):
            check_each_row(optax.sgd(rate))
        return rate

    assert inside(0.5) == 0.5
