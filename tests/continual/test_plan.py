"""The plan of a sweep; `test_sweep.py` has what is refused, through the command."""

from __future__ import annotations

import dataclasses

import pytest

from smf_jax.continual.base import Base, abstract_params_of, load_base
from smf_jax.continual.config import SweepFlags
from smf_jax.continual.plan import by_group, check_trials, plan
from smf_jax.continual.stream_data import load_stream_data
from tests.tiny_sweep import TINY_SWEEP


@pytest.fixture(scope="module")
def base(tiny_base) -> Base:
    base = load_base(str(tiny_base), "base")
    return dataclasses.replace(base, params=abstract_params_of(base.config))


@pytest.fixture(scope="module")
def gathered(base):
    return load_stream_data(SweepFlags(**TINY_SWEEP), base)


def test_the_defaults_make_a_frontier_of_every_method():
    trials = plan(SweepFlags())
    rates = {
        m: {t.learning_rate for t in trials if t.method == m} for m in ("full", "lora", "replay")
    }
    assert all(len(found) >= 3 for found in rates.values())
    assert {t.slots for t in trials if t.method == "smf"} == {64, 512}
    assert len(trials) == len(set(trials)) == len({t.id for t in trials})


def test_axes_that_a_method_lacks_collapse():
    given = dict(rule="tf,random", granularity="per_step,per_task", seeds="0,1")
    trials = plan(SweepFlags(methods="smf,full", slots="16,64", lr="smf:10/full:1e-4", **given))
    assert [t.method for t in trials].count("smf") == 2 * 2 * 2 * 2
    assert [t.method for t in trials].count("full") == 2
    scoped = plan(
        SweepFlags(methods="smf,lora", slots="smf:16", lr="lora:1e-3", optimizer="lora:sgd")
    )
    assert {(t.method, t.slots, t.optimizer) for t in scoped} == {
        ("smf", 16, "sgd"),
        ("lora", None, "sgd"),
    }


def test_groups_share_a_program_and_lose_no_trial():
    trials = plan(SweepFlags(slots="16,64,65,512", rule="smf:tfidf,all"))
    groups = by_group(trials)
    assert sorted(t.id for group in groups for t in group) == sorted(t.id for t in trials)
    for group in groups:
        assert len({t.group for t in group}) == 1
    sizes = {frozenset(t.slots for t in group) for group in groups if group[0].rule == "tfidf"}
    assert sizes == {frozenset({16, 64}), frozenset({65, 512})}
    assert by_group(trials[::-1])[0][0].method == groups[0][0].method  # whatever the order


def test_an_outline_is_enough_to_check(base, gathered):
    flags = SweepFlags(**TINY_SWEEP)
    check_trials(flags, plan(flags), base, gathered)


def test_checks_name_what_to_do(base, gathered):
    def refused(message: str, stream_data=gathered, of=base, **changes) -> None:
        flags = SweepFlags(**{**TINY_SWEEP, "lr": "", "optimizer": "", **changes})
        with pytest.raises(ValueError, match=message):
            check_trials(flags, plan(flags), of, stream_data)

    without = dataclasses.replace(gathered, general=None)
    refused("rule tfidf ranks .*--background=FILE, or --rule=tf", without, methods="smf")
    refused("rule kl_acc, kl_df ranks", without, methods="smf", rule="kl_df,kl_acc")
    refused("--batch_size=1 leaves replay no room", methods="replay", batch_size=1)
    refused("replay mixes .*--background=FILE, or leave replay out", without, methods="replay")
    plain = dataclasses.replace(base, config=base.config.with_memory(None))
    plain = dataclasses.replace(plain, params=abstract_params_of(plain.config))
    refused("no memory, which method smf trains; give --retrofit=add", of=plain)
    refused("--layers=1: layers .1. are outside", of=plain, retrofit="add", layers="1")
    refused(
        "--slots=64: this memory has 16 slots", of=plain, retrofit="add", keys_per_half=4, reads=2
    )
    dense = dict(methods="full,lora,replay", slots="9999", lr="", optimizer="")
    flags = SweepFlags(**{**TINY_SWEEP, **dense})
    check_trials(flags, plan(flags), plain, gathered)  # budgets are those of smf alone
