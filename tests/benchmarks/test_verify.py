"""What is wrong is not timed."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from benchmarks import block, verify
from benchmarks.block import make_block, random_table
from benchmarks.verify import verify_block
from tests.benchmarks.tiny import shape
from tests.tiny_sweep import quick_compilation


def verified(dtype: str = "float32"):
    given = make_block(shape(keys=16, dtype=dtype, table_dtype=dtype))
    with quick_compilation():
        return verify_block(given, random_table(256, 8, dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_block_agrees_with_float64(dtype):
    differences = verified(dtype)
    assert list(differences) == ["lookup", "read", "selection", "row gradient", "written rows"]
    assert max(differences.values()) < (1e-5 if dtype == "float32" else 2**-7)


@pytest.mark.parametrize(
    ("where", "name", "wrong", "what"),
    [
        (verify, "read", lambda table, slots, weights: 1.01 * table[slots[:, 0]], "read"),
        (
            block,
            "gradient_of_rows",
            lambda shape, trace, selected: 1.001 * right_rows(shape, trace, selected),
            "row gradient",
        ),
        (block, "select", lambda shape, trace, usage: trace.slots[0], "selection"),
        (block, "write", lambda state, selected, rows: (state[0] + 1e-6, None), "written rows"),
    ],
)
def test_each_fault_is_named(monkeypatch, where, name, wrong, what):
    monkeypatch.setattr(where, name, wrong)
    with pytest.raises(RuntimeError, match=f"{what} differs from float64 by"):
        verified()


right_rows = block.gradient_of_rows


def test_a_wrong_lookup_is_named(monkeypatch):
    right = verify.product_key_lookup

    def wrong(queries, keys, k):
        found = right(queries, keys, k)
        return found._replace(slots=jnp.roll(found.slots, 1, axis=0))

    monkeypatch.setattr(verify, "product_key_lookup", wrong)
    with pytest.raises(RuntimeError, match="lookup differs"):
        verified()
