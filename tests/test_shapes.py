"""That the shapes in the signatures are checked while tests run, so that they tell the truth."""

from __future__ import annotations

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from smf_jax.sparse.rows import write_rows


def test_a_call_that_breaks_its_signature_is_an_error():
    table, slots = jnp.zeros((5, 2)), jnp.arange(3)
    assert np.asarray(write_rows(table, slots, jnp.ones((3, 2)))).sum() == 6
    with pytest.raises(jaxtyping.TypeCheckError, match="rows"):
        write_rows(table, slots, jnp.ones((4, 2)))
    with pytest.raises(jaxtyping.TypeCheckError, match="slots"):
        write_rows(table, slots / 2, jnp.ones((3, 2)))
