"""Joining what two directories of one base were taught."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from smf_jax.sparse.patch import make_patch, pool_change
from smf_jax.sparse.patch_sets import chained
from smf_jax.tables import explicit
from smf_jax.taught.asking import TaughtModel
from smf_jax.taught.config import ForgetConfig, MergeConfig
from smf_jax.taught.directory import TaughtDirectory
from smf_jax.taught.forgetting import forget
from smf_jax.taught.merging import merge
from tests.tiny_sweep import content, on_devices


@pytest.fixture
def pair(taught, tmp_path):
    """A taught model, and one of the same base with one patch on other rows."""
    mine, other = (shutil.copytree(taught, tmp_path / name) for name in ("mine", "other"))
    directory = TaughtDirectory(str(other))
    record = directory.read()
    patches = directory.load_patches(record)
    ((pool, change),) = patches[0].pools.items()
    used = np.concatenate([patch.pools[pool].slots for patch in patches])
    free = np.setdiff1d(np.arange(change.table_slots), used)[:2]
    old = np.zeros((2, change.old.shape[1]), np.float32)
    changes = {pool: pool_change(free, old, old + 1, change.table_slots)}
    entry = replace(record.patches[0], rows=2)
    forget(ForgetConfig((str(other), "facts")))
    patch = make_patch(changes, task="facts_01", base=patches[0].base)
    entry = replace(entry, **directory.save_patch(0, patch))
    directory.write(replace(directory.read(), patches=(entry,)))
    return mine, other, (pool, free)


def do(*paths, **flags):
    with on_devices(1):
        return merge(MergeConfig(tuple(map(str, paths)), **flags))


def params_of(path):
    return TaughtModel(TaughtDirectory(str(path))).params


def test_patches_of_other_rows_stay_patches(pair):
    mine, other, (pool, free) = pair
    before, theirs = params_of(mine), content(other)
    _, record = do(mine, other)
    assert [entry.name for entry in record.patches] == ["facts_01", "facts_02", "facts-2_01"]
    assert [lesson.name for lesson in record.lessons] == ["facts", "facts-2"]
    table, rest = explicit(params_of(mine)[pool]), np.setdiff1d(np.arange(64**2), free)
    assert (table[free] == 1).all()
    assert table[rest].tobytes() == explicit(before[pool])[rest].tobytes()
    assert content(other) == theirs
    forget(ForgetConfig((str(mine), "facts-2_01")))
    assert explicit(params_of(mine)[pool]).tobytes() == explicit(before[pool]).tobytes()


def test_patches_of_lessons_that_took_turns_keep_their_names(pair):
    mine, other, (pool, _) = pair
    theirs = TaughtDirectory(str(other))
    record, own = theirs.read(), TaughtDirectory(str(mine))
    used = [patch.pools[pool].slots for patch in own.load_patches(own.read())]
    (first,) = theirs.load_patches(record)
    change = first.pools[pool]
    slots = np.setdiff1d(np.arange(change.table_slots), np.concatenate(used))[:3]
    old = np.zeros((1, change.old.shape[1]), np.float32)
    made = {
        name: make_patch({pool: pool_change(slot[None], old, old + 1, change.table_slots)},
                         task=name, base=first.base)
        for name, slot in zip(("facts_01", "more_01", "facts_02"), slots, strict=True)
    }  # fmt: skip
    entries = [
        replace(
            record.patches[0],
            name=name,
            lesson=name[:-3],
            task=int(name[-1]) - 1,
            rows=1,
            **theirs.save_patch(number, patch),
        )
        for number, (name, patch) in enumerate(
            zip(made, chained(list(made.values()), first.base), strict=True)
        )
    ]
    more = replace(record.lessons[0], name="more")
    theirs.write(replace(record.with_lesson(more), patches=tuple(entries)))
    _, joined = do(mine, other)
    patches = {each.task: each for each in own.load_patches(joined)}
    told = {"facts-2_01": slots[0], "more_01": slots[1], "facts-2_02": slots[2]}
    assert [entry.name for entry in joined.patches][2:] == list(told)
    assert {name: patches[name].pools[pool].slots.tolist() for name in told} == {
        name: [slot] for name, slot in told.items()
    }


def test_two_that_were_merged_before_stay_two(pair):
    mine, other, _ = pair
    for path in (mine, other):
        directory = TaughtDirectory(str(path))
        record = directory.read()
        *rest, last = directory.load_patches(record)
        left = chained([*rest, replace(last, task="merged")], directory.base_fingerprint())
        renamed = replace(record.patches[-1], name="merged")
        directory.replace_patches(
            record, [], list(zip([*record.patches[:-1], renamed], left, strict=True))
        )
    _, record = do(mine, other)
    assert [entry.name for entry in record.patches] == ["facts_01", "merged", "merged-2"]


def test_where_both_wrote_the_policy_decides(pair, taught):
    mine, _, (pool, _) = pair
    before, files = params_of(mine), content(mine)
    with pytest.raises(ValueError, match="wrote the same rows.*--policy=first"):
        do(mine, taught)
    assert content(mine) == files
    _, record = do(mine, taught, policy="first")
    assert [entry.name for entry in record.patches] == ["merged"]
    assert explicit(params_of(mine)[pool]).tobytes() == explicit(before[pool]).tobytes()
    forget(ForgetConfig((str(mine), "merged")))
    assert not explicit(params_of(mine)[pool]).any()


def test_what_cannot_be_joined_is_refused(pair, tmp_path):
    mine, *_ = pair
    with pytest.raises(ValueError, match="expected DIR and OTHER"):
        do(mine)
    with pytest.raises(FileNotFoundError, match="no such directory"):
        do(mine, tmp_path / "nothing")
