"""One memory block alone: its table, its ways to train, the form in which it counts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import block
from benchmarks.block import ADAM, MASKED, SMF, forced, make_block
from benchmarks.harness import compile_for
from benchmarks.step import FORMS
from benchmarks.torch_twin import TorchBlock
from smf_jax.sparse.accesses import Form
from tests.benchmarks.tiny import shape

SHAPE = shape()


@pytest.fixture(scope="module")
def given():
    return make_block(SHAPE)


def test_rows_of_a_table_are_distinct_and_nothing_of_its_size_is_held_beside_it():
    table = np.asarray(block.random_table(10_000, 8, "float32"))
    assert len(np.unique(table, axis=0)) == 10_000
    pattern = jnp.zeros((4096, 8))
    program = compile_for(lambda rows: block.grow(rows, 65_536, "float32"), pattern)
    assert program.memory["outputs"] == 65_536 * 8 * 4
    assert program.memory["temporaries"] < program.memory["outputs"] / 4


def test_the_masked_step_is_the_sparse_one_in_either_form_and_adam_moves_all_that_was_read(given):
    table, tables = given.table(), {}
    forms: tuple[Form, ...] = ("vector", "vector", *FORMS)
    names = (MASKED, ADAM, *(SMF for _ in FORMS))
    for name, form in zip(names, forms, strict=True):
        start, step = block.ways(given)[name]
        with forced(form):
            after = compile_for(step, start(table), *given.arguments()[0]).run(
                start(table), *given.arguments()[0]
            )
        tables[name, form] = np.asarray(jax.tree.leaves(after[0])[0])
    changed = {key: np.any(found != table, axis=1) for key, found in tables.items()}
    sparse = tables[SMF, "vector"]
    assert changed[SMF, "vector"].sum() == SHAPE.budget
    np.testing.assert_array_equal(sparse, tables[SMF, "sorted"])
    np.testing.assert_array_equal(changed[SMF, "vector"], changed[MASKED, "vector"])
    np.testing.assert_allclose(sparse, tables[MASKED, "vector"], rtol=1e-5, atol=1e-6)
    assert changed[ADAM, "vector"].sum() > SHAPE.budget


def test_pytorch_s_block_gives_the_same_and_moves_rows_against_their_gradient(given):
    pytest.importorskip("torch", reason="torch is not installed: pip install .[parity]")
    theirs = TorchBlock(given, threads=1)
    for number, (x, _) in enumerate(given.inputs):
        expected = given.layer.apply({"params": given.params}, x, given.table())[0]
        np.testing.assert_allclose(theirs.output(number).detach(), expected, atol=1e-5)
    upstream = np.asarray(given.inputs[0][1][0])
    before = np.sum(theirs.output(0).detach().numpy() * upstream)
    theirs(0)
    assert np.sum(theirs.output(0).detach().numpy() * upstream) < before
