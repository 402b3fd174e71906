from __future__ import annotations

import numpy as np
import pytest

from smf_jax.sparse.patch import apply_patch, diff_params, revert_patch
from smf_jax.sparse.patch_sets import compare_patches, merge_patches, stack_patches
from tests.sparse.patches import (
    ALPHA,
    BASE,
    OTHER,
    POOL,
    bits,
    make_chain,
    make_params,
    teach,
)


def make_siblings(*slots: dict[str, list[int]]):
    """Patches made side by side on the base."""
    base = make_params()
    return base, [
        diff_params(base, teach(base, seed + 1, ids), task=f"task {seed}", base=BASE)
        for seed, ids in enumerate(slots)
    ]


# --- stack -------------------------------------------------------------------------------------


def test_stack_has_the_effect_of_all_in_turn_and_is_reverted_as_one():
    states, patches = make_chain({POOL: [1, 2]}, {POOL: [2, 3], OTHER: [0]}, {POOL: [1, 9]})
    stacked = stack_patches(patches)
    assert stacked.task == "task 0+task 1+task 2"
    assert stacked.pools[POOL].slots.tolist() == [1, 2, 3, 9]
    assert bits(apply_patch(states[0], stacked)) == bits(states[3])
    assert bits(revert_patch(states[3], stacked)) == bits(states[0])


def test_stacking_is_associative():
    states, (a, b, c) = make_chain({POOL: [1, 2]}, {POOL: [2, 3]}, {POOL: [3, 9]})
    left = stack_patches([stack_patches([a, b]), c])
    right = stack_patches([a, stack_patches([b, c])])
    assert left.fingerprint == right.fingerprint == c.fingerprint
    assert bits(left.to_arrays()[0]) == bits(right.to_arrays()[0])
    assert bits(apply_patch(states[0], left)) == bits(states[3])


def test_rows_that_return_to_where_they_began_drop_out_of_a_stack():
    base = make_params()
    taught = teach(base, 1, {POOL: [1, 2]})
    undone = {**taught, POOL: taught[POOL].copy()}
    undone[POOL][1] = base[POOL][1]
    a = diff_params(base, taught, task="a", base=BASE)
    b = diff_params(taught, undone, task="b", base=BASE, parent=a.fingerprint)
    stacked = stack_patches([a, b])
    assert stacked.pools[POOL].slots.tolist() == [2]
    assert bits(apply_patch(base, stacked)) == bits(undone)


def test_patches_that_do_not_follow_each_other_are_not_stacked():
    _, (a, b, c) = make_chain({POOL: [1]}, {POOL: [2]}, {POOL: [3]})
    for wrong in ([a, c], [b, a], [a, a]):
        with pytest.raises(ValueError, match="pass consecutive patches in order"):
            stack_patches(wrong)
    with pytest.raises(ValueError, match="patches is empty"):
        stack_patches([])


# --- merge -------------------------------------------------------------------------------------


def test_merge_of_disjoint_patches_is_both_in_any_order():
    base, (a, b) = make_siblings({POOL: [1, 2]}, {POOL: [3], OTHER: [0]})
    merged, swapped = merge_patches([a, b]), merge_patches([b, a])
    assert merged.fingerprint == swapped.fingerprint
    want = apply_patch(apply_patch(base, a), b)
    assert bits(apply_patch(base, merged)) == bits(want)
    assert bits(revert_patch(want, merged)) == bits(base)


def test_merge_names_every_conflict():
    _, (a, b, c) = make_siblings({POOL: [1, 2, 5]}, {POOL: [2, 3, 5]}, {POOL: [9]})
    with pytest.raises(ValueError) as error:
        merge_patches([a, b, c])
    assert f"'task 0' and 'task 1' ({POOL} slots 2, 5)" in str(error.value)
    assert "task 2" not in str(error.value)


def test_scalars_conflict_too():
    base = make_params()
    a, b = (
        diff_params(base, teach(base, 1, {}, alpha=alpha), task=f"α {alpha}", base=BASE)
        for alpha in (0.5, 0.25)
    )
    with pytest.raises(ValueError, match=f"'α 0.5' and 'α 0.25' \\({ALPHA}\\)"):
        merge_patches([a, b])


def test_patches_that_agree_on_a_shared_row_merge():
    base, (a, b) = make_siblings({POOL: [1, 2]}, {POOL: [3]})
    agreeing = apply_patch(base, b)
    agreeing[POOL] = agreeing[POOL].copy()
    agreeing[POOL][1] = a.pools[POOL].new[0]
    c = diff_params(base, agreeing, task="c", base=BASE)
    merged = merge_patches([a, c])
    assert merged.pools[POOL].slots.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(merged.pools[POOL].new[0], a.pools[POOL].new[0])


def test_patches_of_different_parents_are_not_merged():
    _, patches = make_chain({POOL: [1]}, {POOL: [2]})
    with pytest.raises(ValueError, match=r"patches \['task 1'\] were not made on the state of"):
        merge_patches(patches)
    with pytest.raises(ValueError, match="patches is empty"):
        merge_patches([])


@pytest.mark.parametrize("policy", ["first", "last", "mean"])
def test_a_policy_settles_what_patches_disagree_on(policy):
    base, made = make_siblings({POOL: [1, 2, 5]}, {POOL: [2, 3]}, {POOL: [2, 5]})
    merged = merge_patches(made, policy)
    change = merged.pools[POOL]
    assert change.slots.tolist() == [1, 2, 3, 5] and merged.task == "task 0+task 1+task 2"
    for slot, row in zip(change.slots, change.new, strict=True):
        rows = [
            of.pools[POOL].new[list(of.pools[POOL].slots).index(slot)]
            for of in made
            if slot in of.pools[POOL].slots
        ]
        wanted = {"first": rows[0], "last": rows[-1], "mean": np.mean(rows, axis=0, dtype=float)}
        np.testing.assert_array_equal(row, wanted[policy].astype(np.float32))
    assert bits(revert_patch(apply_patch(base, merged), merged)) == bits(base)


def test_what_all_agree_on_stays_to_the_bit_by_the_mean_too():
    base = make_params()
    changed = {**base, POOL: np.array(base[POOL])}
    changed[POOL][3] = -0.0
    same = [diff_params(base, changed, task=name, base=BASE) for name in "abc"]
    assert (
        merge_patches(same, "mean").pools[POOL].new.tobytes() == same[0].pools[POOL].new.tobytes()
    )


def test_policies_of_scalars_and_of_rows_that_agree():
    base = make_params()
    a, b = (
        diff_params(base, teach(base, 1, {POOL: [4]}, alpha=alpha), task=f"{alpha}", base=BASE)
        for alpha in (0.5, 0.25)
    )
    found = {p: merge_patches([a, b], p) for p in ("first", "last", "mean")}
    news = {policy: float(of.scalars[ALPHA].new) for policy, of in found.items()}
    assert news == {"first": 0.5, "last": 0.25, "mean": 0.375}
    other = {**base, POOL: np.array(base[POOL])}
    other[POOL][3] = -0.0
    minus = diff_params(base, other, task="minus", base=BASE)
    kept = merge_patches([minus, b], "mean").pools[POOL].new[:1]
    assert kept.tobytes() == minus.pools[POOL].new.tobytes(), "the sign of zero stays"
    for merged in found.values():  # one and the same row is taken to the bit
        np.testing.assert_array_equal(merged.pools[POOL].new, a.pools[POOL].new)
    with pytest.raises(ValueError, match="policy='best' is unknown; choose from refuse, first"):
        merge_patches([a, b], "best")  # pyright: ignore[reportArgumentType]


# --- compare -----------------------------------------------------------------------------------


def test_compare_counts_the_slots_of_each_and_of_both():
    _, (a, b) = make_siblings({POOL: [1, 2, 5]}, {POOL: [2, 5, 6, 7], OTHER: [0]})
    assert compare_patches(a, b) == {POOL: (3, 4, 2), OTHER: (0, 1, 0)}
    assert compare_patches(a, b)[POOL].shared == 2
