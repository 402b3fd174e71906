"""Suite ``lookup`` at tiny sizes."""

from __future__ import annotations

import numpy as np

from benchmarks import lookup
from tests.benchmarks.tiny import flags, names_of, report, shape
from tests.tiny_sweep import quick_compilation


def test_every_form_is_timed_at_every_size():
    told = report()
    with quick_compilation():
        lookup.run(flags(), told)
    forms = ["lookup", "lookup, all k × k pairs", "scores alone"]
    assert names_of(told) == [(name, slots) for slots in (64, 256) for name in forms]


def test_all_pairs_find_the_best_of_all_slots():
    queries, keys = lookup.make_queries(shape())[1]
    found = lookup.lookup_of_all_pairs(queries, keys, 4)
    halves = np.einsum("thpc,hpnc->pthn", np.asarray(queries), np.asarray(keys))
    scores = (halves[0][..., :, None] + halves[1][..., None, :]).reshape(16, 2, -1)
    expected = np.sort(scores, axis=-1)[..., ::-1][..., :4]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5, atol=1e-6)
    chosen = np.take_along_axis(scores, np.asarray(found.slots), axis=-1)
    np.testing.assert_allclose(chosen, expected, rtol=1e-5, atol=1e-6)
