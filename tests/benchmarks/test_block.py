"""One memory block alone: its table, its step, the form in which it counts."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import block
from benchmarks.block import forced, make_block, random_table
from benchmarks.harness import compile_for
from benchmarks.parts import FORMS
from smf_jax.sparse import accesses
from tests.benchmarks.tiny import shape
from tests.tiny_sweep import quick_compilation

SHAPE = shape(keys=16)


@pytest.fixture(scope="module")
def given():
    return make_block(SHAPE)


def test_rows_of_a_table_are_distinct_and_nothing_of_its_size_is_held_beside_it():
    table = np.asarray(random_table(10_000, 8, "float32"))
    assert len(np.unique(table, axis=0)) == 10_000
    assert 0.5 < table.std() * 8**0.5 < 1.5
    pattern = jnp.zeros((4096, 8))
    program = compile_for(partial(block._grow, slots=65_536, dtype="float32"), pattern)
    assert program.memory.outputs == 65_536 * 8 * 4
    assert program.memory.temporaries < program.memory.outputs / 4


def test_narrow_tables_are_narrow():
    assert random_table(64, 8, "bfloat16").dtype == jnp.bfloat16


def test_inputs_differ_and_a_seed_decides_them(given):
    xs = [np.asarray(x) for x, _ in given.inputs]
    assert len(xs) == block.INPUT_SETS
    assert all(x.shape == (1, SHAPE.tokens, SHAPE.width) for x in xs)
    assert len({x.tobytes() for x in xs}) == len(xs)
    again = make_block(SHAPE)
    np.testing.assert_array_equal(again.inputs[2][1], given.inputs[2][1])
    np.testing.assert_array_equal(again.params["keys"], given.params["keys"])


def test_a_step_writes_the_budget_of_rows_and_both_forms_write_the_same(given):
    table = random_table(SHAPE.slots, SHAPE.memory.value_width, "float32")
    step = partial(block.step, SHAPE, given.layer)
    arguments = given.arguments()[0]
    tables = {}
    with quick_compilation():
        for form in FORMS:
            with forced(form):
                program = compile_for(step, (table, None), *arguments)
            tables[form], store = program.run((table, None), *arguments)
            assert store is None
    changed = np.any(np.asarray(tables["vector"] != table), axis=1)
    assert changed.sum() == SHAPE.budget
    np.testing.assert_array_equal(tables["vector"], tables["sorted"])


def test_a_form_is_forced_on_what_is_traced_inside_only():
    before = accesses.sorted_from
    with forced("sorted"):
        assert accesses.form_for(10**6, 10) == "sorted"
    with pytest.raises(KeyError), forced("vector"):
        assert accesses.form_for(1, 10**9) == "vector"
        raise KeyError
    assert before is accesses.sorted_from


def test_a_narrow_table_has_room_for_the_masters_of_all_inputs():
    narrow = shape(keys=16, dtype="bfloat16", table_dtype="bfloat16")
    store = make_block(narrow).store(random_table(narrow.slots, 8, "bfloat16"))
    assert store.masters.shape[0] >= block.INPUT_SETS * narrow.budget
    assert jax.tree.leaves(store.opt_state) == []
