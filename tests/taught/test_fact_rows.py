"""The rows of one fact within its patch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from smf_jax.sparse.patch import make_patch, pool_change
from smf_jax.taught.fact_rows import find_fact, patches_of, taught_by, without_rows
from smf_jax.taught.record import Lesson, PatchEntry, Record, TaughtFact
from tests.taught.test_provenance import POOL, patch_of


def fact_of(question: str, task: int = 0):
    return TaughtFact(question, ("a",), task, "learned")


FACTS = (fact_of("Who keeps it?"), fact_of("Who paints it?"), fact_of("When?", 1))
ENTRIES = (
    PatchEntry("one_01", "", "", 2, "one", 0, 1, 1.0),
    PatchEntry("one_02", "", "", 2, "one", 1, 1, 1.0),
    PatchEntry("one_03", "", "", 2, "one", 2, 1, 1.0, ("Who keeps it?",)),
)
RECORD = Record({}, {}, (Lesson("one", "one.jsonl", FACTS, {}),), ENTRIES)


def test_a_fact_is_found_by_its_question_or_words_of_it():
    assert find_fact(RECORD, "Who keeps it?") is FACTS[0]
    assert find_fact(RECORD, "when") is FACTS[2]
    for text in ("it?", "nothing"):
        with pytest.raises(ValueError, match=f"--fact={text[:2]}.*Who keeps it"):
            find_fact(RECORD, text)
    gone = replace(RECORD.lessons[0], facts=(replace(FACTS[2], status="forgotten"),))
    with pytest.raises(ValueError, match="none, nothing is learned"):
        find_fact(replace(RECORD, lessons=(gone,)), "When?")


def test_the_patches_of_a_fact_are_its_tasks_and_what_taught_it_once_more():
    assert patches_of(RECORD, FACTS[0]) == [0, 2]
    assert patches_of(RECORD, FACTS[2]) == [1]
    assert taught_by(RECORD, ENTRIES[0]) == [FACTS[0], FACTS[1]]
    assert taught_by(RECORD, ENTRIES[2]) == [FACTS[0]]


def test_its_own_rows_go_and_those_of_others_and_of_later_patches_stay():
    patch = patch_of("a", [1, 2, 3, 4, 5], [1.0, 2.0, 3.0, 4.0, 5.0])
    shares = {POOL: np.array([-1, 1.0, 0.95, 0.5, 0.0, 0.9, -1, -1, -1, -1])}
    later = make_patch(
        {POOL: pool_change([1, 9], np.zeros((2, 2)), np.ones((2, 2)), 10)}, task="b", base="base"
    )
    left, gone, stay = without_rows(patch, shares, 0.9, [later])
    assert (left.pools[POOL].slots.tolist(), gone, stay) == ([1, 3, 4], 2, 1)
    assert left.pools[POOL].new[:, 0].tolist() == [1.0, 3.0, 4.0]
    assert (left.task, left.base, left.parent) == (patch.task, patch.base, patch.parent)
    # A row that is not read for the fact is none of its own, however small the share.
    left, gone, stay = without_rows(patch, shares, 0.0, [])
    assert (left.pools[POOL].slots.tolist(), gone, stay) == ([4], 4, 0)
