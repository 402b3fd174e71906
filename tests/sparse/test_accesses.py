"""Accesses in both forms against NumPy counts, and sums of weights that no split changes."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.sparse import accesses
from smf_jax.sparse.accesses import (
    MASS_UNIT,
    accesses_in_vector,
    count_reads,
    counts_at,
    exact_sum,
    form_for,
)
from tests import oracles
from tests.sparse.tiny import in_vector

FORMS = ("vector", "sorted")
SLOTS = 90

counted = jax.jit(count_reads, static_argnames=("table_slots", "form"))


def recorded(layers=1, seed=0, tokens=24, table_slots=SLOTS):
    """Slots of several layers, some chosen twice by one token, weights, and a mask with pads."""
    rng = np.random.default_rng(seed)
    slots = [rng.integers(0, table_slots // 2, (tokens, 6 + i)).astype(np.int32)
             for i in range(layers)]  # fmt: skip
    for of_layer in slots:
        of_layer[:, 1] = of_layer[:, 0]
    weights = [rng.random(of_layer.shape).astype(np.float32) for of_layer in slots]
    return slots, weights, rng.random(tokens) < 0.7


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layers", [1, 3])
def test_reads_are_counted_over_layers_and_without_pads(form, layers):
    slots, _, valid = recorded(layers)
    found = counted(slots, valid, SLOTS, form=form)
    truth = sum((oracles.accesses(of_layer, valid, SLOTS) for of_layer in slots), np.zeros((), int))
    assert found.counts.dtype == jnp.int32 and found.amounts is None
    np.testing.assert_array_equal(in_vector(found, found.counts), truth)
    assert int(found.total) == truth.sum() > 0


def test_the_sorted_form_stands_in_order_pads_last():
    slots, _, valid = recorded()
    found = counted(slots, valid, SLOTS, form="sorted")
    truth = np.sort(np.where(valid[:, None], slots[0], SLOTS).ravel())
    np.testing.assert_array_equal(found.slots, truth)
    assert found.counts.size == truth.size and truth[-1] == SLOTS


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_of_pads_accesses_nothing(form):
    slots, weights, valid = recorded()
    found = counted(slots, np.zeros_like(valid), SLOTS, weights, form)
    for leaf in (found.counts, found.amounts, found.total):
        assert not np.asarray(leaf).any()
    assert not np.asarray(counts_at(found, jnp.arange(SLOTS + 1))).any()


@pytest.mark.parametrize("form", FORMS)
def test_counts_of_given_slots(form):
    slots, _, valid = recorded(2)
    found = counted(slots, valid, SLOTS, form=form)
    truth = np.append(sum(oracles.accesses(s, valid, SLOTS) for s in slots), 0)
    asked = np.random.default_rng(1).permutation(SLOTS + 1).astype(np.int32)
    assert truth[asked].any() and not truth[asked].all()
    np.testing.assert_array_equal(jax.jit(counts_at)(found, asked), truth[asked])


@pytest.mark.parametrize("form", FORMS)
def test_masses_are_sums_of_weights(form):
    slots, weights, valid = recorded(2)
    found = counted(slots, valid, SLOTS, weights, form)
    truth = np.zeros(SLOTS)
    for of_layer, weight in zip(slots, weights, strict=True):
        np.add.at(truth, of_layer[valid], weight[valid].astype(np.float64))
    np.testing.assert_allclose(in_vector(found, found.amounts), truth, rtol=0, atol=30 * MASS_UNIT)
    assert float(found.total) == pytest.approx(truth.sum(), rel=1e-5)
    plain = counted(slots, valid, SLOTS, form=form)
    np.testing.assert_array_equal(found.counts, plain.counts)


def test_masses_do_not_depend_on_form_or_order():
    slots, weights, valid = recorded()
    rng = np.random.default_rng(2)
    order = rng.permutation(len(valid))
    shuffled = [slots[0][order]], [weights[0][order]], valid[order]
    found = [
        counted(given[0], given[2], SLOTS, given[1], form)
        for given in ((slots, weights, valid), shuffled)
        for form in FORMS
    ]
    bits = [in_vector(one, one.amounts).view(np.int32) for one in found]
    totals = [np.asarray(one.total).view(np.int32) for one in found]
    for other, total in zip(bits[1:], totals[1:], strict=True):
        np.testing.assert_array_equal(other, bits[0])
        assert total == totals[0]


@pytest.mark.parametrize("form", FORMS)
def test_the_mass_of_one_slot_may_exceed_what_an_integer_of_32_bits_holds(form):
    tokens = 3000
    slots, weights = [jnp.full((tokens, 1), 7)], [jnp.ones((tokens, 1))]
    found = counted(slots, jnp.ones(tokens, bool), SLOTS, weights, form)
    assert tokens / MASS_UNIT > 2**31
    assert in_vector(found, found.amounts)[7] == tokens == float(found.total)


@pytest.mark.parametrize("form", FORMS)
def test_the_mass_of_a_whole_batch_may_be_of_a_million_reads(form):
    rows, reads = 20_000, 32
    slots = np.tile(np.arange(reads, dtype=np.int32), (rows, 1))
    slots[:, 0] = 999  # the heaviest by far
    weights = np.ones((rows, reads), np.float32)
    weights[:, 0] = 40
    valid, given = jnp.ones(rows, bool), ([jnp.asarray(slots)], [jnp.asarray(weights)])
    found = count_reads(given[0], valid, 1024, given[1], form)
    assert float(found.total) == rows * (reads - 1 + 40)
    amounts = in_vector(found, found.amounts)
    assert amounts[999] == 40 * rows and amounts[1:reads].tolist() == [rows] * (reads - 1)
    assert int(np.argmax(amounts)) == 999


def test_negative_weights_count_by_their_size():
    slots, weights, valid = recorded()
    signed = [weight * np.where(np.arange(weight.shape[1]) % 2, -1, 1) for weight in weights]
    of_size, of_signed = (
        counted(slots, valid, SLOTS, given, "vector").amounts for given in (weights, signed)
    )
    np.testing.assert_array_equal(of_size, of_signed)


def test_sums_of_whole_numbers_are_exact():
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 2**20, 100_000).astype(np.int32)
    assert float(jax.jit(exact_sum)(whole)) == pytest.approx(
        int(whole.astype(np.int64).sum()), rel=1e-7
    )
    same = [float(exact_sum(jnp.asarray(rng.permutation(whole)))) for _ in range(3)]
    assert len(set(same)) == 1


def test_the_form_goes_by_size(monkeypatch):
    slots, _, valid = recorded()
    reads = slots[0].size
    for has_kernel, limit in ((True, 4), (False, 24)):
        monkeypatch.setattr(accesses, "is_available", partial(bool, has_kernel))
        for table_slots, form in ((limit * reads, "vector"), (limit * reads + 1, "sorted")):
            assert form_for(reads, table_slots) == form
            found = jax.eval_shape(partial(count_reads, table_slots=table_slots), slots, valid)
            assert (found.slots is not None) == (form == "sorted")


def test_ids_are_sorted_by_the_kernel_where_there_is_one(monkeypatch):
    slots, _, valid = recorded()

    def program(has_kernel):
        monkeypatch.setattr(accesses, "is_available", lambda: has_kernel)
        count = partial(count_reads, table_slots=SLOTS, form="sorted")
        return jax.jit(count).lower(slots, valid).as_text()

    assert "smf_jax_sorted_runs" in program(True) and "stablehlo.sort" not in program(True)
    assert "smf_jax_sorted_runs" not in program(False) and "stablehlo.sort" in program(False)


@pytest.mark.parametrize("form", FORMS)
def test_no_form_but_the_vector_has_n_places(form):
    table_slots = 10_007
    slots, weights, valid = recorded(table_slots=table_slots)
    text = counted.lower(slots, valid, table_slots, weights, form).as_text()
    assert (f"tensor<{table_slots}x" in text or f"x{table_slots}x" in text) == (form == "vector")


def test_counts_at_hand_are_a_vector():
    found = accesses_in_vector(jnp.asarray([0, 3, 1], jnp.int32))
    assert (int(found.total), found.table_slots, found.counts.size) == (4, 3, 3)


def test_no_reads_are_refused():
    with pytest.raises(ValueError, match="reads is empty: give the reads of at least one layer"):
        count_reads([], jnp.ones(3, bool), SLOTS)
