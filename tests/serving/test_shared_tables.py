"""Sets of patches share one store of rows, and hold what applying each patch gives."""

from __future__ import annotations

import numpy as np
import pytest

from smf_jax.serving.shared_tables import share_table
from smf_jax.sparse.patch import apply_patch, make_patch, pool_change
from smf_jax.tables import explicit, implicit

PATH, SLOTS, WIDTH = "memory/pool_0/values", 24, 3


def tables():
    rng = np.random.default_rng(0)
    whole = rng.standard_normal((SLOTS, WIDTH)).astype(np.float32)
    sparse = np.zeros_like(whole)
    sparse[[3, 7]] = whole[[3, 7]]
    return {"explicit": whole, "implicit": implicit(sparse)}


def patches(table):
    """Three: the second writes over a row of the first, the third stands alone."""
    rng, found, now = np.random.default_rng(1), [], {PATH: table}
    for name, slots in (("a", [1, 3, 5]), ("b", [5, 6]), ("c", [9, 7, 20])):
        old = np.asarray(now[PATH][np.array(slots)])
        change = pool_change(slots, old, rng.standard_normal(old.shape).astype("f4"), SLOTS)
        found.append(make_patch({PATH: change}, task=name, base="base"))
        now = apply_patch(now, found[-1])
    return found


@pytest.mark.parametrize("kind", ["explicit", "implicit"])
@pytest.mark.parametrize("places", [(), (0,), (2,), (0, 1), (0, 2), (0, 1, 2)])
def test_a_set_holds_the_bits_that_applying_its_patches_gives(kind, places):
    table = tables()[kind]
    made = patches(table)
    shared = share_table(table, PATH, made)
    found = shared.with_patches(PATH, {place: made[place] for place in places})
    expected = {PATH: table}
    for place in places:
        expected = apply_patch(expected, made[place])
    everywhere = np.arange(SLOTS)
    whole = np.asarray(explicit(expected[PATH]))
    assert np.asarray(found[everywhere]).tobytes() == whole[everywhere].tobytes()
    assert found.rows is shared.placed.rows  # the rows are placed once
    assert found.index.shape == shared.placed.index.shape  # and one program serves all sets


def test_a_patch_that_does_not_fit_is_refused():
    table = tables()["explicit"]
    made = patches(table)
    with pytest.raises(ValueError, match="patch 'b' does not fit"):
        share_table(table, PATH, made).with_patches(PATH, {1: made[1]})


def test_a_table_that_no_patch_writes_is_the_base():
    table = tables()["explicit"]
    shared = share_table(table, PATH, ())
    assert shared.with_patches(PATH, {}) is shared.placed
    assert np.asarray(shared.placed[np.arange(SLOTS)]).tobytes() == table.tobytes()
