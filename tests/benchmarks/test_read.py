"""Suite ``read`` at tiny sizes."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from benchmarks import read
from tests.benchmarks.tiny import flags, names_of, report
from tests.tiny_sweep import quick_compilation


def test_every_form_is_timed_at_every_size():
    told = report()
    with quick_compilation():
        read.run(flags(), told)
    forms = [
        "read",
        "read, one gather",
        "gradient of weights",
        "gradient of weights, one gather",
    ]
    assert names_of(told) == [(name, slots) for slots in (64, 256) for name in forms]
    for each in told.measurements:
        assert len(each.timing.samples) == 2
        assert each.cost.bytes > 0
        assert each.memory is not None


def test_a_form_that_computes_something_else_is_not_timed():
    right = jnp.ones((3, 2))
    read.require_equal({"a": right + 1e-6, "b": right}, "a", "b")
    for wrong in (right + 1e-2, right * jnp.nan):
        with pytest.raises(RuntimeError, match="'a' differs from 'b'"):
            read.require_equal({"a": wrong, "b": right}, "a", "b")
