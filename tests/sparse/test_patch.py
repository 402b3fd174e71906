from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from smf_jax import checkpoints
from smf_jax.sparse.patch import (
    Patch,
    apply_patch,
    diff_params,
    make_patch,
    pool_change,
    revert_patch,
    shared_places,
)
from tests.sparse.patches import (
    ALPHA,
    BASE,
    KERNEL,
    OTHER,
    POOL,
    bits,
    make_chain,
    make_params,
    teach,
)

# --- apply and revert --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "dtype"),
    [
        (np.asarray, np.float32),
        (np.asarray, np.float64),
        (np.asarray, ml_dtypes.bfloat16),
        (jnp.asarray, np.float32),
        (jnp.asarray, ml_dtypes.bfloat16),
    ],
)
def test_apply_and_revert_are_bit_exact_and_leave_their_input_alone(place, dtype):
    numpy_before = make_params(dtype)
    numpy_after = teach(numpy_before, 1, {POOL: [5, 63, 0], OTHER: [3]}, alpha=0.5)
    before, after = ({path: place(x) for path, x in p.items()} for p in (numpy_before, numpy_after))
    patch = diff_params(before, after, task="t", base=BASE)
    applied = apply_patch(before, patch)
    assert bits(applied) == bits(after)
    assert bits(before) == bits(numpy_before)
    assert bits(revert_patch(applied, patch)) == bits(before)
    assert {type(x) for x in applied.values()} == {type(x) for x in before.values()}


def test_patch_holds_the_changed_rows_and_nothing_else():
    before = make_params()
    patch = diff_params(before, teach(before, 1, {POOL: [9, 4]}), task="t", base=BASE)
    assert patch.rows == 2
    assert list(patch.pools) == [POOL]
    assert patch.scalars == {}
    assert patch.pools[POOL].slots.tolist() == [4, 9]
    assert patch.pools[POOL].slots.dtype == np.int32
    np.testing.assert_array_equal(patch.pools[POOL].old, before[POOL][[4, 9]])


def test_every_bit_counts_as_a_change():
    before = make_params()
    before[POOL][7, 0] = 0.0
    after = {**before, POOL: before[POOL].copy()}
    after[POOL][7, 0] = -0.0
    patch = diff_params(before, after, task="t", base=BASE)
    assert patch.pools[POOL].slots.tolist() == [7]
    assert bits(apply_patch(before, patch)) == bits(after)


def test_sharded_tables_stay_sharded():
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("rows"))
    before = make_params()
    after = teach(before, 1, {POOL: [5, 63, 0]})
    patch = diff_params(before, after, task="t", base=BASE)
    applied = apply_patch({**before, POOL: jax.device_put(before[POOL], sharding)}, patch)
    assert applied[POOL].sharding == sharding
    assert bits(applied) == bits(after)


def test_patch_without_changes_applies_to_anything():
    patch = diff_params(make_params(), make_params(), task="t", base=BASE)
    assert (patch.rows, patch.pools, patch.scalars) == (0, {}, {})
    assert apply_patch({"any": 1}, patch) == {"any": 1}


def test_model_with_other_rows_is_refused_naming_pools_slots_and_scalars():
    before = make_params()
    patch = diff_params(
        before, teach(before, 1, {POOL: [4, 9, 30], OTHER: [1]}, alpha=0.5), task="t", base=BASE
    )
    strange = teach(before, 2, {POOL: [9, 40]}, alpha=0.25)
    with pytest.raises(ValueError) as error:
        apply_patch(strange, patch)
    text = str(error.value)
    assert f"{POOL}: 1 of 3 rows differ (slots 9)" in text
    assert f"{ALPHA}: 0.25, expected 0.0" in text
    assert OTHER not in text
    assert patch.parent in text


def test_one_different_bit_is_another_row():
    before = make_params()
    patch = diff_params(before, teach(before, 1, {POOL: [4]}), task="t", base=BASE)
    other = {**before, POOL: before[POOL].copy()}
    other[POOL].view(np.uint32)[4, 3] ^= 1
    with pytest.raises(ValueError, match="1 of 1 rows differ"):
        apply_patch(other, patch)


def test_applying_twice_and_reverting_twice_are_refused():
    before = make_params()
    patch = diff_params(before, teach(before, 1, {POOL: [4]}), task="t", base=BASE)
    with pytest.raises(ValueError, match="its old rows are expected"):
        apply_patch(apply_patch(before, patch), patch)
    with pytest.raises(ValueError, match="its new rows are expected"):
        revert_patch(before, patch)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.zeros((32, 8), np.float32), r"float32\[32, 8\], expected float32\[64, 8\]"),
        (np.zeros((64, 8), np.float16), r"float16\[64, 8\], expected float32\[64, 8\]"),
        (None, f"{POOL}: missing"),
    ],
)
def test_table_of_another_shape_or_dtype_is_refused(table, message):
    before = make_params()
    patch = diff_params(before, teach(before, 1, {POOL: [4]}), task="t", base=BASE)
    params = {path: x for path, x in (before | {POOL: table}).items() if x is not None}
    with pytest.raises(ValueError, match=message):
        apply_patch(params, patch)


def test_another_base_is_refused_when_named():
    before = make_params()
    patch = diff_params(before, teach(before, 1, {POOL: [4]}), task="t", base=BASE)
    apply_patch(before, patch, base=BASE)
    with pytest.raises(ValueError, match="belongs to base bbbbbbbbbbbb, this is base cccccccccccc"):
        apply_patch(before, patch, base="c" * 64)


# --- later patches -----------------------------------------------------------------------------


def test_revert_is_refused_while_a_later_patch_touches_the_same_slots():
    slots = ({POOL: [1, 2]}, {POOL: [7]}, {POOL: [2, 3]})
    states, patches = make_chain(*slots)
    with pytest.raises(ValueError) as error:
        revert_patch(states[3], patches[0], later=patches[1:])
    text = str(error.value)
    assert f"'task 2' ({POOL} slots 2; {ALPHA})" in text
    assert text.startswith("patch 'task 0' cannot be reverted")
    # Even to those who do not say what came later: the rows are no longer those it wrote.
    with pytest.raises(ValueError, match="1 of 2 rows differ"):
        revert_patch(states[3], patches[0])
    assert bits(revert_patch(states[3], patches[2])) == bits(states[2])


def test_revert_under_later_patches_of_other_slots_takes_back_this_one_only():
    base = make_params()
    first = teach(base, 1, {POOL: [1, 2]})
    both = teach(first, 2, {POOL: [7], OTHER: [0]})
    a = diff_params(base, first, task="a", base=BASE)
    b = diff_params(first, both, task="b", base=BASE, parent=a.fingerprint)
    reverted = revert_patch(both, a, later=[b])
    assert bits(reverted) == bits(apply_patch(base, b))


def test_shared_places_name_pools_slots_and_scalars():
    _, (a, b) = make_chain({POOL: list(range(20)), OTHER: [1]}, {POOL: list(range(5, 20))})
    assert shared_places(a, b) == [f"{POOL} slots 5, 6, 7, 8, 9, 10, 11, 12, … 15 in all", ALPHA]
    assert shared_places(a, a, disagreeing=True) == []


# --- making ------------------------------------------------------------------------------------


def test_rows_as_a_step_returns_them_make_the_same_patch_as_whole_parameters():
    before = make_params()
    after = teach(before, 1, {POOL: [9, 4]}, alpha=0.5)
    touched = np.array([9, 64, 30, 4, 64])  # 64 = N marks unused places; 30 ended as it began
    rows = np.where(touched < 64, touched, 0)
    made = make_patch(
        {
            POOL: pool_change(touched, before[POOL][rows], after[POOL][rows], 64),
            OTHER: pool_change(jnp.array([3]), before[OTHER][[3]], after[OTHER][[3]], 16),
        },
        {ALPHA: (before[ALPHA], after[ALPHA]), "memory/layer_3/alpha": (1.0, 1.0)},
        task="t",
        base=BASE,
    )
    diffed = diff_params(before, after, task="t", base=BASE)
    assert made.fingerprint == diffed.fingerprint
    assert bits(made.to_arrays()[0]) == bits(diffed.to_arrays()[0])
    assert made.to_arrays()[1] == diffed.to_arrays()[1]


def test_fingerprint_names_the_state_by_what_led_to_it():
    before = make_params()
    after = teach(before, 1, {POOL: [4]})
    make = lambda **names: diff_params(before, after, **{"task": "t", "base": BASE} | names)  # noqa: E731
    assert make().parent == BASE
    assert make().fingerprint == make(task="another name").fingerprint
    other = teach(before, 2, {POOL: [4]})
    prints = {
        make().fingerprint,
        make(parent="c" * 64).fingerprint,
        diff_params(before, other, task="t", base=BASE).fingerprint,
        diff_params(before, before, task="t", base=BASE).fingerprint,
        BASE,
    }
    assert len(prints) == 5


def test_change_of_any_other_leaf_is_refused_naming_it():
    before = make_params()
    after = teach(before, 1, {POOL: [4]}) | {KERNEL: before[KERNEL] + 1}
    with pytest.raises(ValueError, match=f"{KERNEL} changed: a patch holds rows of pools"):
        diff_params(before, after, task="t", base=BASE)
    with pytest.raises(ValueError, match=f"paths in one only: \\['{KERNEL}'\\]"):
        diff_params(before, {p: x for p, x in before.items() if p != KERNEL}, task="t", base=BASE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": [1, 2, 1]}, "slots: 1 repeated"),
        ({"slots": [1, -2, 3]}, "slots: -2 is negative; expected ids of 0 … 15"),
        ({"slots": [1, 2]}, r"slots \(2,\), old \(3, 4\)"),
        ({"old": np.zeros((3, 5))}, r"old \(3, 5\), new \(3, 4\)"),
        ({"old": np.zeros((3, 4), np.float16)}, "old rows are float16, new rows float64"),
        ({"new": np.array([[1.0] * 4, [np.nan] * 4, [2.0] * 4])}, "new rows of slots 2 are not fi"),
    ],
)
def test_rows_that_make_no_sense_are_refused(change, message):
    good = {"slots": [1, 2, 3], "old": np.zeros((3, 4)), "new": np.ones((3, 4)), "table_slots": 16}
    pool_change(**good)
    with pytest.raises(ValueError, match=message):
        pool_change(**(good | change))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((np.zeros(2), np.ones(2)), r"float64\[2\] to float64\[2\], expected two scalars"),
        ((np.float32(1), np.float64(2)), r"float32\[\] to float64\[\]"),
        ((1.0, np.inf), "inf is not finite"),
    ],
)
def test_scalars_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        make_patch({}, {ALPHA: values}, task="t", base=BASE)


# --- on disk -----------------------------------------------------------------------------------


def test_saved_patch_is_the_patch(tmp_path):
    states, (_, patch) = make_chain({POOL: [1]}, {POOL: [2, 60], OTHER: [5]})
    arrays, metadata = patch.to_arrays()
    checkpoints.save(tmp_path / "patch", arrays, metadata | {"method": "smf", "task": 1})
    loaded = Patch.from_arrays(*checkpoints.load(tmp_path / "patch"))
    for field in dataclasses.fields(Patch):
        if field.name not in ("pools", "scalars"):
            assert getattr(loaded, field.name) == getattr(patch, field.name)
    assert bits(apply_patch(states[1], loaded)) == bits(states[2])
    assert bits(revert_patch(states[2], loaded)) == bits(states[1])


@pytest.mark.parametrize(
    "metadata", [{"kind": "base"}, {}, {"kind": "patch", "patch": {"format": 9}}]
)
def test_what_is_no_patch_of_this_format_is_refused(metadata):
    with pytest.raises(ValueError, match="expected a patch of format 1"):
        Patch.from_arrays({}, metadata)
