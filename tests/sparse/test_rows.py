"""Gradients of rows and their norms against np.add.at, and exact gathers and writes."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.sparse import rows
from smf_jax.sparse.rows import (
    ReadTrace,
    count_with_norms,
    gather_rows,
    merge_rows,
    places_among,
    row_gradient,
    where_rows,
    write_rows,
)
from tests import oracles
from tests.sparse.tiny import in_vector

SLOTS, WIDTH = 50, 6
FORMS = ("matrix", "scatter")

counted = jax.jit(count_with_norms, static_argnames=("table_slots", "chunk"))
gradient_of = jax.jit(row_gradient, static_argnames=("table_slots", "form"))


def traces(layers, seed=0, dtype: type = np.float32) -> list[Any]:
    """Reads of several layers, of different lengths, with slots chosen twice by one token."""
    rng = np.random.default_rng(seed)
    made = []
    for layer in range(layers):
        tokens, reads = 7 + layer, 5
        slots = rng.integers(0, 30, (tokens, reads)).astype(np.int32)
        slots[:, 1] = slots[:, 0]
        weights, cotangent = rng.random((tokens, reads)), rng.standard_normal((tokens, WIDTH))
        made.append(ReadTrace(*cast(Any, (slots, weights.astype(dtype), cotangent.astype(dtype)))))
    return made


def truth(reads, selected):
    whole = sum(oracles.table_gradient(r.cotangent, r.slots, r.weights, SLOTS) for r in reads)
    return np.concatenate([whole, np.zeros((1, WIDTH))])[selected]


@pytest.mark.parametrize("form", [*FORMS, None])
@pytest.mark.parametrize("layers", [1, 3])
def test_both_forms_are_the_rows_of_the_whole_gradient(form, layers):
    reads = traces(layers)
    # Read and unread slots, in no order, and unused places in between.
    selected = np.array([29, SLOTS, 0, 7, 45, 12, SLOTS, 3], np.int32)
    gradient = gradient_of(reads, selected, SLOTS, form)
    assert gradient.dtype == jnp.float32
    np.testing.assert_allclose(gradient, truth(reads, selected), rtol=0, atol=3e-6)
    assert not np.asarray(gradient)[[1, 4, 6]].any(), "unused places and unread slots are zero"


@pytest.mark.parametrize("form", FORMS)
def test_float64_reads_give_float64_rows(form):
    with jax.enable_x64(True):
        reads = traces(2, dtype=np.float64)
        selected = np.arange(0, 40, 3, dtype=np.int32)
        gradient = gradient_of(reads, selected, SLOTS, form)
        np.testing.assert_allclose(gradient, truth(reads, selected), rtol=0, atol=1e-14)


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_reads_are_summed_in_float32(form):
    reads = [ReadTrace(r.slots, *(jnp.asarray(a, jnp.bfloat16) for a in r[1:])) for r in traces(1)]
    selected = np.arange(30, dtype=np.int32)
    gradient = gradient_of(reads, selected, SLOTS, form)
    assert gradient.dtype == jnp.float32
    np.testing.assert_allclose(gradient, truth(reads, selected), rtol=0, atol=3e-6)


def test_all_rows_selected_is_the_whole_gradient():
    reads, everything = traces(2), np.arange(SLOTS, dtype=np.int32)
    gradient = gradient_of(reads, everything, SLOTS)
    np.testing.assert_allclose(gradient, truth(reads, everything), rtol=0, atol=3e-6)


def primitives(size, tokens=7, reads=5):
    """Names of the operations of a gradient of so many rows, as a CPU runs it."""
    shape = cast(Any, jax.ShapeDtypeStruct)
    trace = ReadTrace(
        shape((tokens, reads), jnp.int32),
        shape((tokens, reads), jnp.float32),
        shape((tokens, WIDTH), jnp.float32),
    )
    gradient = jax.jit(row_gradient, static_argnums=2)
    text = gradient.lower([trace], shape((size,), jnp.int32), SLOTS).as_text()
    return {name for name in ("dot_general", "while") if f"stablehlo.{name}" in text}


def test_the_form_is_chosen_by_size(monkeypatch):
    monkeypatch.setattr(rows, "MATRIX_SPEED", 2)
    assert primitives(10) == {"dot_general"}
    assert primitives(11) == {"while"}


def accelerated(trace, selected):
    """The gradient as backends other than the CPU make it."""
    wide = ReadTrace(trace.slots, *(jnp.asarray(a, jnp.float32) for a in trace[1:]))
    return rows._product(rows._compared_matrix(wide, jnp.asarray(selected)), wide)


def test_accelerators_make_the_same_rows_by_comparing():
    (trace,) = traces(1)
    selected = np.array([29, SLOTS, 0, 7, 45, 12, SLOTS, 3], np.int32)
    gradient = jax.jit(accelerated)(trace, selected)
    np.testing.assert_allclose(gradient, truth([trace], selected), rtol=0, atol=3e-6)
    assert not np.asarray(gradient)[[1, 4, 6]].any()


@pytest.mark.parametrize("form", ["vector", "sorted"])
def test_places_among_the_selected(form):
    find = jax.jit(places_among, static_argnames=("table_slots", "form"))
    slots = np.random.default_rng(0).integers(0, SLOTS, (9, 4)).astype(np.int32)
    for selected in ([29, SLOTS, 0, 7, 45, SLOTS, 3], [SLOTS, SLOTS], list(range(SLOTS))):
        where = {slot: place for place, slot in enumerate(selected) if slot < SLOTS}
        expected = [[where.get(slot, len(selected)) for slot in row] for row in slots.tolist()]
        places = find(jnp.asarray(selected, jnp.int32), slots, SLOTS, form)
        np.testing.assert_array_equal(places, expected)


def test_a_search_makes_no_vector_of_the_table():
    def lowered(form):
        find = jax.jit(places_among, static_argnames=("table_slots", "form"))
        return find.lower(jnp.arange(4), jnp.zeros((3, 2), jnp.int32), 10_007, form).as_text()

    assert "10007x" in lowered("vector") and "10007x" not in lowered("sorted")


def test_rows_of_equal_slots_are_summed():
    rng = np.random.default_rng(3)
    slots = rng.permutation([7, 3, SLOTS, 7, 0, SLOTS, 7, 3, 49]).astype(np.int32)
    given = np.where(slots[:, None] < SLOTS, rng.standard_normal((9, WIDTH)), 0)
    ids, sums = jax.jit(merge_rows, static_argnums=2)(slots, given.astype(np.float32), SLOTS)
    assert ids.tolist() == [0, 3, 7, 49] + [SLOTS] * 5
    whole = np.zeros((SLOTS + 1, WIDTH))
    np.add.at(whole, slots, given)
    np.testing.assert_allclose(sums, whole[np.asarray(ids)], rtol=0, atol=1e-6)


def test_no_reads_are_refused():
    with pytest.raises(ValueError, match="reads is empty: give the reads of at least one layer"):
        row_gradient([], jnp.arange(3), SLOTS)


def test_unused_places_gather_zeros_and_write_nothing():
    table = jnp.asarray(np.random.default_rng(0).standard_normal((SLOTS, WIDTH)), jnp.float32)
    slots = jnp.asarray([4, SLOTS, 2, SLOTS], jnp.int32)
    gathered = gather_rows(table, slots)
    np.testing.assert_array_equal(gathered[jnp.asarray([0, 2])], table[jnp.asarray([4, 2])])
    assert not np.asarray(gathered)[[1, 3]].any()
    written = np.asarray(write_rows(table, slots, jnp.full((4, WIDTH), jnp.nan)))
    assert np.flatnonzero(np.isnan(written).any(axis=1)).tolist() == [2, 4]
    kept = np.setdiff1d(np.arange(SLOTS), [2, 4])
    np.testing.assert_array_equal(written[kept], table[kept])


def test_where_rows_takes_whole_rows_of_any_rank():
    marked = jnp.asarray([True, False, True])
    for shape in [(3,), (3, 2), (3, 2, 4)]:
        picked = where_rows(marked, jnp.ones(shape), jnp.zeros(shape))
        np.testing.assert_array_equal(picked, np.ones(shape) * np.array([1, 0, 1]).reshape(
            -1, *[1] * (len(shape) - 1)))  # fmt: skip


def same_length(layers):
    """Reads of several layers of one batch."""
    return [traces(1, seed=seed)[0] for seed in range(layers)]


@pytest.mark.parametrize("chunk", [1, 4, 35, 1024])
@pytest.mark.parametrize("layers", [1, 3])
def test_norms_are_those_of_the_rows_of_the_whole_gradient(chunk, layers):
    reads, valid = same_length(layers), np.array([1, 1, 0, 1, 1, 0, 1], bool)
    found = counted(reads, valid, SLOTS, chunk)
    whole, counts = np.zeros((SLOTS, WIDTH)), np.zeros(SLOTS, int)
    for read in reads:
        weights = read.weights * valid[:, None]
        whole = whole + oracles.table_gradient(read.cotangent, read.slots, weights, SLOTS)
        counts = counts + oracles.accesses(read.slots, valid, SLOTS)
    np.testing.assert_array_equal(in_vector(found, found.counts), counts)
    norms = np.linalg.norm(whole, axis=1)
    np.testing.assert_allclose(in_vector(found, found.amounts), norms, rtol=0, atol=3e-6)
    assert counts.max() > chunk or chunk > 1, "a slot's reads stand in several chunks"
    assert found.table_slots == SLOTS and found.slots is not None


def test_no_more_than_a_chunk_of_rows_is_held():
    reads, tokens, width, slots = 64, 256, 24, 70_001
    trace = traces(1)[0]._replace(
        slots=jnp.zeros((tokens, reads), jnp.int32),
        weights=jnp.zeros((tokens, reads)),
        cotangent=jnp.zeros((tokens, width)),
    )
    lowered = counted.lower([trace], jnp.ones(tokens, bool), slots, 512)
    assert f"{slots}x" not in lowered.as_text()
    rows_of_reads = tokens * reads * width * 4
    memory = lowered.compile().memory_analysis()
    assert memory is not None and memory.temp_size_in_bytes < rows_of_reads / 2


def test_norms_of_no_reads_are_refused():
    with pytest.raises(ValueError, match="reads is empty: give the reads of at least one layer"):
        count_with_norms([], jnp.ones(3, bool), SLOTS)
