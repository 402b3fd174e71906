"""The cells of a grid: their names, their groups and their shares."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from smf_jax.continual.grid import grid
from smf_jax.continual.sections import GridConfig
from smf_jax.continual.trial import Trial, by_group, shard


def make_trial(**changes) -> Trial:
    settings: dict[str, Any] = dict(
        method="smf",
        slots=64,
        rule="tfidf",
        granularity="per_step",
        optimizer="sgd",
        learning_rate=30.0,
        seed=0,
        batch_order="facts",
    )
    return Trial(**(settings | changes))


def test_ids_are_names_that_tell_every_setting():
    assert make_trial().id == "smf-tfidf-sgd-t64-lr30-s0"
    assert make_trial(granularity="per_task", seed=3).id == "smf-tfidf-per_task-sgd-t64-lr30-s3"
    assert make_trial().setting == "smf-tfidf-sgd-t64-lr30"
    assert make_trial().sweep == "smf-tfidf-sgd-t64"


def test_what_is_varied_is_told_and_parts_groups_and_curves():
    varied = (("lora_rank", 32), ("lora_targets", "mlp"))
    lora = make_trial(method="lora", slots=None, rule=None, granularity=None, optimizer="adamw")
    lora = dataclasses.replace(lora, batch_order="shuffled")
    wide = dataclasses.replace(lora, varied=varied)
    assert lora.sweep == "lora-adamw" and wide.sweep == "lora-adamw-rank32-targets_mlp"
    assert lora.group != wide.group and wide.group == dataclasses.replace(wide, seed=4).group
    told = (("leaky", False), ("protect_written", 0.5), ("train_alpha", True))
    assert make_trial(varied=told).varied_words == ["no_leaky", "protect_written0.5", "train_alpha"]


def test_a_trial_is_read_from_its_row_and_from_one_of_before():
    trial = make_trial(varied=(("protect_written", 0.5), ("train_alpha", True)))
    assert Trial.from_row(json.loads(json.dumps(trial.to_row(), sort_keys=True))) == trial
    row = make_trial().to_row()
    assert row.pop("varied") == {} and Trial.from_row(row) == make_trial()


def test_budgets_of_one_size_step_are_one_group():
    assert make_trial(slots=3).group == make_trial(slots=64, learning_rate=1.0, seed=7).group
    assert make_trial(slots=64).group != make_trial(slots=65).group
    assert make_trial(slots=65).group == make_trial(slots=512).group


@pytest.mark.parametrize(
    "change", [{"rule": "tf"}, {"granularity": "per_task"}, {"optimizer": "adam"}]
)
def test_static_settings_part_groups(change):
    assert make_trial(**change).group != make_trial().group


@pytest.mark.parametrize("count", [1, 3, 100])
def test_shares_cover_the_grid_once(count):
    trials = grid(GridConfig(seeds="0,1"))
    shares = [shard(trials, f"{index}/{count}") for index in range(count)]
    assert sorted((t for share in shares for t in share), key=trials.index) == list(trials)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("part", ["", "1", "2/2", "-1/2", "0/0", "a/b", "0/2/3"])
def test_a_share_out_of_range_is_refused(part):
    with pytest.raises(ValueError, match=r"--shard=.*give i/n with i from 0 to n - 1"):
        shard([make_trial()], part)


def test_groups_share_a_program_and_lose_no_trial():
    trials = grid(GridConfig(slots="16,64,65,512", rule="smf:tfidf,all"))
    groups = by_group(trials)
    assert sorted(t.id for group in groups for t in group) == sorted(t.id for t in trials)
    for group in groups:
        assert len({t.group for t in group}) == 1
    sizes = {frozenset(t.slots for t in group) for group in groups if group[0].rule == "tfidf"}
    assert sizes == {frozenset({16, 64}), frozenset({65, 512})}
    assert by_group(trials[::-1])[0][0].method == groups[0][0].method  # whatever the order
