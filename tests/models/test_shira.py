"""A fixed random mask as places and numbers: how many, where, and that the rest keeps its bits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.models.shira import apply_entries, entries_of_maps, init_places
from smf_jax.params import flatten
from tests.models.tiny import PLAIN, random_params

PARAMS = flatten(random_params(PLAIN))
TARGETS = ("query", "down")


def maps() -> list[str]:
    return [path for path in PARAMS if path.endswith(("query/kernel", "down/kernel"))]


@pytest.mark.parametrize(("share", "count", "total"), [(0.1, 0, 30), (0.5, 7, 7), (1.0, 0, 300)])
def test_the_number_is_met_to_a_weight_and_shared_by_size(share, count, total):
    found = entries_of_maps([100, 50, 150], share, count)
    assert sum(found) == total
    np.testing.assert_allclose(found, np.array([1 / 3, 1 / 6, 1 / 2]) * total, atol=1)


@pytest.mark.parametrize(("share", "count"), [(0.001, 0), (0.5, 301)])
def test_none_and_more_than_all_are_refused(share, count):
    with pytest.raises(ValueError, match="choose 1 to 300"):
        entries_of_maps([100, 50, 150], share, count)


def test_places_are_distinct_of_the_targets_alone_and_hang_on_the_key():
    def drawn(seed, share=0.3):
        return init_places(PARAMS, TARGETS, share, 0, jax.random.key(seed))

    places, others = drawn(0), drawn(1)
    assert sorted(places) == [path.replace("kernel", "places") for path in maps()]
    for path, found in places.items():
        size = PARAMS[path.replace("places", "kernel")].size
        assert found.dtype == jnp.int32 and np.all(np.diff(found) > 0)
        assert found[0] >= 0 and found[-1] < size and len(found) == pytest.approx(0.3 * size, abs=1)
        assert not np.array_equal(found, others[path])
    # With all chosen they are all of them.
    for found in drawn(0, 1.0).values():
        np.testing.assert_array_equal(found, np.arange(len(found)))


def test_every_weight_is_as_likely():
    times = np.zeros(PARAMS[maps()[0]].size)
    for seed in range(200):
        places = init_places(PARAMS, TARGETS, 0.25, 0, jax.random.key(seed))
        times[np.asarray(places[maps()[0].replace("kernel", "places")])] += 1
    assert times.mean() == pytest.approx(50, abs=1) and times.min() > 20 and times.max() < 80


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_is_added_is_added_there_and_all_else_keeps_its_bits(dtype):
    params = {path: leaf.astype(dtype) for path, leaf in PARAMS.items()}
    entries = init_places(params, TARGETS, 0.2, 0, jax.random.key(0))
    for path in list(entries):
        entries[path.replace("places", "entries")] = jnp.full(entries[path].shape, 0.5)
    changed = apply_entries(params, entries)
    assert changed.keys() == params.keys()
    for path, leaf in params.items():
        if path not in maps():
            assert changed[path] is leaf
            continue
        expected = np.array(leaf).reshape(-1)
        places = np.asarray(entries[path.replace("kernel", "places")])
        sums = expected[places].astype(np.float32) + np.float32(0.5)
        expected[places] = sums.astype(expected.dtype)
        assert np.asarray(changed[path]).tobytes() == expected.tobytes()
